//! Tables that fit a terminal: columns as wide as they need, the last one cut.
//!
//! Not here: JSON (`record.rs`).

/// Rows below headings, every line at most `width` characters; cells other than the last are never cut.
pub(crate) fn render(headings: &[&str], rows: &[Vec<String>], width: usize) -> String {
    let columns = headings.len();
    let mut widths: Vec<usize> = headings.iter().map(|heading| heading.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let headings: Vec<String> = headings.iter().map(|heading| (*heading).to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&headings).chain(rows) {
        let mut line = String::new();
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            line.push_str(cell);
            if at + 1 < columns {
                line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
            }
        }
        text.push_str(fit(&line, width).trim_end());
        text.push('\n');
    }
    text
}

/// One line of at most `width` characters: line ends and other control characters become spaces, a cut shows as `…`.
pub(crate) fn fit(text: &str, width: usize) -> String {
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(width + 1).collect();
    if line.chars().count() > width {
        line = line.chars().take(width.saturating_sub(1)).collect();
        line.push('…');
    }
    line
}

/// A text for a terminal, with its lines and without what else would steer it: a worker's words are a stranger's.
pub(crate) fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let rows = vec![
            vec!["t1".into(), "running".into(), "ein langer Grund ä ".repeat(10)],
            vec!["t12345".into(), "pending_review".into(), "two\nlines\x1b[31m".into()],
        ];
        let text = render(&["ID", "STATE", "WHY"], &rows, 80);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert_eq!(text.lines().count(), 3);
        assert!(text.starts_with("ID      STATE           WHY\n"), "{text}");
        assert!(text.contains("…\n") && text.contains("two lines [31m"), "{text}");
    }
}
