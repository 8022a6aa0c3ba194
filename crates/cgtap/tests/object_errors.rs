//! What cannot be loaded says so in one line: what was asked, what was said, what to do.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of a test fail it by panicking"
)]

mod object_support;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use cgtap::object::{LoadOptions, ObjectError, load, load_file};
use object_support::{compile, compile_with, scratch, try_load};

fn load_bytes(bytes: &[u8]) -> ObjectError {
    let options = LoadOptions {
        name: "x.o".to_owned(),
        ..LoadOptions::default()
    };
    load(bytes, &options).unwrap_err()
}

fn load_path(path: &Path) -> ObjectError {
    load_file(path, &LoadOptions::default()).unwrap_err()
}

#[test]
fn files_that_cannot_be_read() {
    let error = load_path(Path::new("/no/such/file.o"));
    assert_eq!(error.kind(), "unreadable");
    assert_eq!(error.errno(), Some(2));
    assert!(
        error
            .to_string()
            .starts_with("cannot load /no/such/file.o: No such file"),
        "{error}"
    );
    // Neither waited for nor read without end.
    for path in ["/dev/zero", "/tmp"] {
        let error = load_path(Path::new(path));
        assert_eq!(
            error.to_string(),
            format!("cannot load {path}: it is not a regular file")
        );
    }
    let dir = tempfile::tempdir_in(scratch()).unwrap();
    let fifo = dir.path().join("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(load_path(&fifo).kind(), "unreadable");
}

#[test]
fn files_that_are_no_objects() {
    assert_eq!(
        load_bytes(b"").to_string(),
        "cannot load x.o: the file is empty"
    );
    assert_eq!(load_bytes(b"#!/bin/sh\nexit 1\n").kind(), "not-an-object");
    let own = std::env::current_exe().unwrap();
    let error = load_path(&own);
    assert_eq!(error.kind(), "wrong-machine");
    assert!(
        error
            .to_string()
            .contains("give the object that `clang -target bpf -c` made"),
        "{error}"
    );
    let big = compile_with("plain", &["-g", "-mbig-endian"]);
    let error = load_path(&big);
    assert_eq!(error.kind(), "wrong-byte-order");
    let whole = std::fs::read(compile("calls")).unwrap();
    let error = load_bytes(&whole[..whole.len() - 200]);
    assert_eq!(error.kind(), "truncated");
    assert!(error.to_string().contains("it is cut short"), "{error}");
}

#[test]
fn maps_without_btf() {
    let path = compile_with("pinned", &["-DBPF_NO_PRESERVE_ACCESS_INDEX"]);
    let error = load_path(&path);
    assert_eq!(error.kind(), "object-without-btf");
    assert!(error.to_string().ends_with("compile it with `clang -g`"));
    assert!(error.log().contains("BTF is required"));
}

#[test]
fn variables_without_btf() {
    let path = compile_with("plain", &["-DBPF_NO_PRESERVE_ACCESS_INDEX"]);
    let options = LoadOptions {
        set: vec![("x".to_owned(), "1".to_owned())],
        ..LoadOptions::default()
    };
    let error = load_file(&path, &options).unwrap_err();
    assert_eq!(error.kind(), "object-without-btf");
}

#[test]
fn libbpfs_own_words_are_passed_on() {
    let error = try_load("unresolved", &[], &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot load unresolved.bpf.o: libbpf could not prepare the object: extern \
         'no_such_symbol_anywhere' (strong): not resolved"
    );
    assert_eq!(error.kind(), "libbpf");
    assert_eq!(error.errno(), Some(3));
    assert!(error.log().contains("no_such_symbol_anywhere"));

    let error = try_load("huge_map", &[], &[]).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("map 'impossible': failed to create: -EINVAL"),
        "{error}"
    );
    assert_eq!(error.errno(), Some(22));
}

/// Runs again as an unprivileged user by the test below.
#[test]
#[ignore = "needs to be run as another user; a_user_without_capabilities_is_told_which does that"]
fn unprivileged_half() {
    let Ok(object) = std::env::var("CGTAP_TEST_OBJECT") else {
        panic!("run by hand: set CGTAP_TEST_OBJECT");
    };
    let error = load_path(Path::new(&object));
    println!("{} {:?} {error}", error.kind(), error.errno());
}

#[test]
fn a_user_without_capabilities_is_told_which() {
    // Where nobody may read and run it.
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let everyone = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(dir.path(), everyone.clone()).unwrap();
    let (test, object) = (dir.path().join("test"), dir.path().join("calls.o"));
    std::fs::copy(std::env::current_exe().unwrap(), &test).unwrap();
    std::fs::copy(compile("calls"), &object).unwrap();
    std::fs::set_permissions(&test, everyone.clone()).unwrap();
    std::fs::set_permissions(&object, everyone).unwrap();
    let output = Command::new(&test)
        .args(["--exact", "unprivileged_half", "--ignored", "--nocapture"])
        .env("CGTAP_TEST_OBJECT", &object)
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("permission Some(1) cannot load"),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        text.contains("CAP_BPF and CAP_PERFMON missing; run it as root"),
        "{text}"
    );
}
