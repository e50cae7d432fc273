use super::*;

#[test]
fn a_folder_or_a_slash_means_the_name_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let inside = |text: &str| folder.path().join(text);
    assert!(matches!(place(Some(folder.path())), Ok(Place::Folder(path)) if path == folder.path()));
    assert!(matches!(place(Some(&inside("new/"))), Ok(Place::Folder(_))));
    assert!(matches!(place(Some(&inside("new"))), Ok(Place::File(path)) if path == inside("new")));
    assert!(matches!(place(None), Ok(Place::Folder(path)) if path.is_absolute()));
    assert_eq!(
        place(Some(std::path::Path::new("")))
            .unwrap_err()
            .exit_code(),
        2
    );
}

#[test]
fn ratios_count_the_bytes_sent() {
    assert!(reached(0.0, 0, 100));
    assert!(!reached(1.5, 149, 100));
    assert!(reached(1.5, 150, 100));
}
