//! Places: what collides, what is refused.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::ErrorKind;
use crate::embedded::Place;

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn two_projects_of_one_name_have_two_places() {
    let root = tempfile::tempdir().unwrap();
    let [one, two] = ["a/app", "b/app"].map(|name| {
        let project = root.path().join(name);
        fs::create_dir_all(&project).unwrap();
        let place = Place::new(&root.path().join("state"), &project, None, root.path());
        place.create().unwrap();
        place
    });
    assert_ne!(one.dir(), two.dir());
    assert!(one.dir().file_name().unwrap().to_str().unwrap().starts_with("app-"));
    assert_ne!(one.choose_socket().unwrap(), two.choose_socket().unwrap());
    assert_eq!(mode(one.dir()), 0o700);
    assert_eq!(mode(one.socket().unwrap().parent().unwrap()), 0o700);
    // Through a link it is the same project.
    std::os::unix::fs::symlink(root.path().join("a/app"), root.path().join("link")).unwrap();
    let again = Place::new(&root.path().join("state"), &root.path().join("link"), None, root.path());
    assert_eq!(again.dir(), one.dir());
    // Another state directory is another pool, with another socket.
    let other = Place::new(&root.path().join("state2"), one.project(), None, root.path());
    other.create().unwrap();
    assert_ne!(other.choose_socket().unwrap(), one.socket().unwrap());
}

#[test]
fn everyone_finds_the_recorded_socket_until_its_directory_is_gone() {
    let root = tempfile::tempdir().unwrap();
    let [state, runtime, temp] = ["state", "run", "tmp"].map(|name| root.path().join(name));
    fs::create_dir(&runtime).unwrap();
    fs::create_dir(&temp).unwrap();
    let here = Place::new(&state, root.path(), Some(&runtime), &temp);
    assert!(!here.exists().unwrap());
    here.create().unwrap();
    let socket = here.choose_socket().unwrap();
    assert_eq!(socket.parent().unwrap(), runtime.join("motorpool"));
    let there = Place::new(&state, root.path(), None, &temp);
    assert_eq!(there.socket().as_ref(), Some(&socket));
    assert_eq!(there.choose_socket().unwrap(), socket);
    fs::remove_dir_all(&runtime).unwrap();
    assert!(there.choose_socket().unwrap().starts_with(&temp));
}

#[test]
fn a_path_that_is_too_long_for_a_socket_is_not_taken() {
    let root = tempfile::tempdir().unwrap();
    let long = root.path().join("x".repeat(100));
    fs::create_dir(&long).unwrap();
    let place = Place::new(&root.path().join("state"), root.path(), Some(&long), root.path());
    place.create().unwrap();
    let socket = place.choose_socket().unwrap();
    assert!(socket.as_os_str().len() <= 107 && !socket.starts_with(&long));
    let place = Place::new(&root.path().join("state2"), root.path(), None, &long);
    place.create().unwrap();
    let error = place.choose_socket().unwrap_err().to_string();
    assert!(error.contains("107 bytes at most"), "{error}");
}

#[test]
fn a_link_or_anothers_directory_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let place = Place::new(&root.path().join("state"), root.path(), None, root.path());
    place.create().unwrap();
    let sockets = root.path().join(format!("motorpool-{}", nix::unistd::geteuid()));
    std::os::unix::fs::symlink("/", &sockets).unwrap();
    let error = place.choose_socket().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.message().ends_with("is not a directory"), "{error}");

    fs::write(place.file("owner"), "/some/other").unwrap();
    let error = place.create().unwrap_err();
    assert!(error.message().contains("is the pool of /some/other, not of"), "{error}");
    fs::write(place.file("owner"), root.path().canonicalize().unwrap().to_str().unwrap()).unwrap();
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(place.dir(), Some(12345), None).unwrap();
        let error = place.create().unwrap_err();
        assert!(error.message().contains("belongs to user 12345, you are 0"), "{error}");
    }
}
