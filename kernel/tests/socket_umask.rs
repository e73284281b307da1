//! The umask is the process's, so this is alone in its process.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use kingpole_kernel::sockets::{SocketKind, SocketPlace, SocketPlan};

#[test]
fn a_unix_socket_gets_the_mode_of_its_umask_and_the_process_keeps_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let mode_of =
        |path: &std::path::Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777;
    let plain = directory.path().join("plain");
    fs::write(&plain, "").unwrap();
    let before = mode_of(&plain);
    for (mask, mode) in [(0o117, 0o660), (0o077, 0o700), (0, 0o777)] {
        let path = directory.path().join(format!("{mask:o}.sock"));
        let place = SocketPlace::Unix {
            path: path.clone(),
            umask: Some(mask),
        };
        let plan = SocketPlan {
            kind: SocketKind::Stream,
            backlog: 1,
            place,
        };
        let _socket = plan.make().unwrap();
        assert_eq!(mode_of(&path), mode);
    }
    fs::remove_file(&plain).unwrap();
    fs::write(&plain, "").unwrap();
    assert_eq!(mode_of(&plain), before);
}
