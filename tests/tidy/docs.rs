//! Documents: the generated ones are fresh, the links lead somewhere, what they name exists.

use motorpool::domain::{options, state};
use motorpool::settings;
use motorpool_tests::generated::expect_fresh;

use crate::tree::{below, expect_none, read, root};

#[test]
fn the_settings_page_is_fresh() {
    expect_fresh("docs/settings.md", &settings::reference_markdown());
}

#[test]
fn the_page_of_states_is_fresh() {
    expect_fresh("docs/states.md", &state::reference_markdown());
}

#[test]
fn relative_links_lead_somewhere() {
    let mut wrong = Vec::new();
    for file in below("", ".md") {
        let dir = file.rsplit_once('/').map_or("", |(dir, _)| dir);
        for (i, line) in read(&file).lines().enumerate() {
            for rest in line.split("](").skip(1) {
                let link = rest.split([')', '#', ' ']).next().unwrap_or_default();
                if !link.is_empty() && !link.contains("://") && !root().join(dir).join(link).exists() {
                    wrong.push(format!("{file}:{}: {link} does not exist", i + 1));
                }
            }
        }
    }
    expect_none(&wrong);
}

/// Code in backquotes that looks like a path of this repository names something that is there.
#[test]
fn paths_in_the_documents_exist() {
    let rooms = ["shared/", "dispatcher/", "worker/", "tests/", "docs/", "deploy/", ".ci/", ".config/"];
    let ours = [
        "README.md",
        "CONTRIBUTING.md",
        "docs/architecture.md",
        "docs/operating.md",
        "docs/benchmarks.md",
        "docs/reliability.md",
    ];
    let mut wrong = Vec::new();
    for file in ours {
        for (i, line) in read(file).lines().enumerate() {
            for span in line.split('`').skip(1).step_by(2) {
                let path = span.split_whitespace().next().unwrap_or_default().trim_start_matches("./");
                let is_fetched = path.starts_with("tests/.cache");
                if rooms.iter().any(|room| path.starts_with(room)) && !is_fetched && !root().join(path).exists() {
                    wrong.push(format!("{file}:{}: {path} does not exist", i + 1));
                }
            }
        }
    }
    expect_none(&wrong);
}

#[test]
fn the_readme_names_every_option_of_a_task() {
    let readme = read("README.md");
    let wrong: Vec<_> = options::TABLE
        .iter()
        .filter(|row| row.is_built() && !readme.contains(&format!("`--{}`", row.name.replace('_', "-"))))
        .map(|row| format!("README.md does not name --{}", row.name.replace('_', "-")))
        .collect();
    expect_none(&wrong);
}

#[test]
fn the_readme_promises_no_option_that_is_not_built() {
    let readme = read("README.md");
    let missing = options::TABLE.iter().filter(|row| !row.is_built()).map(|row| row.name.replace('_', "-"));
    let missing = missing.chain(settings::NOT_BUILT.iter().map(|name| (*name).to_owned()));
    let wrong: Vec<_> = missing
        .filter(|name| readme.contains(&format!("`--{name}`")))
        .map(|name| format!("README.md names --{name}, which is not built"))
        .collect();
    expect_none(&wrong);
}
