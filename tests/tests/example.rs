//! Promise: another program can host its children in the kernel with the few lines that
//! `docs/examples/host_children.rs` shows: it may end at any time and finds them again.

use kingpole_protocol::places::RUNTIME_DIR_VARIABLE;
use kingpole_tests::{Kernel, binaries};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

#[test]
fn the_example_finds_its_child_and_the_rest_of_its_output_after_it_was_killed() {
    let kernel = Kernel::start();
    let command = || {
        let mut command = Command::new(binaries::host_children());
        command
            .env(RUNTIME_DIR_VARIABLE, kernel.scratch().runtime_dir())
            .stdout(Stdio::piped());
        command
    };
    let mut first = command().spawn().unwrap();
    let mut lines = BufReader::new(first.stdout.take().unwrap()).lines();
    let pid = lines.next().unwrap().unwrap();
    assert!(pid.ends_with(", started"), "{pid}");
    for expected in ["line 1", "line 2"] {
        assert_eq!(lines.next().unwrap().unwrap(), expected);
    }
    first.kill().unwrap();
    first.wait().unwrap();
    // It may have shown more before it was killed.
    let mut shown = vec!["line 1".to_owned(), "line 2".to_owned()];
    shown.extend(lines.map(Result::unwrap));

    let second = command().output().unwrap();
    let text = String::from_utf8(second.stdout).unwrap();
    assert!(second.status.success(), "{text}");
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some(pid.replace("started", "found").as_str()));
    let mut rest: Vec<&str> = lines.collect();
    assert_eq!(rest.pop(), Some("the child has written its last line"));
    // The last line may have been shown and not yet acknowledged.
    if rest.first() == shown.last().map(String::as_str).as_ref() {
        rest.remove(0);
    }
    let all: Vec<&str> = shown.iter().map(String::as_str).chain(rest).collect();
    assert_eq!(all, ["line 1", "line 2", "line 3", "line 4", "line 5"]);
    assert_eq!(
        kernel.client().processes().unwrap(),
        [],
        "all is acknowledged"
    );
}
