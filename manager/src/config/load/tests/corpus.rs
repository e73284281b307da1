//! Configurations in the shapes that Circus users have.

use super::*;

#[test]
fn the_reference_configurations_are_understood() {
    let corpus: [(&str, &str, &[&str]); 5] = [
        (
            "environments.ini",
            include_str!("../corpus/environments.ini"),
            &["does not lead to any configuration"],
        ),
        ("fastcgi.ini", include_str!("../corpus/fastcgi.ini"), &[]),
        ("mongrel2.ini", include_str!("../corpus/mongrel2.ini"), &[]),
        (
            "papa-stack.ini",
            include_str!("../corpus/papa-stack.ini"),
            &["\"active\" is unknown"],
        ),
        (
            "tutorial.ini",
            include_str!("../corpus/tutorial.ini"),
            &["httpd is"],
        ),
    ];
    for (name, text, expected) in corpus {
        let configuration = load_files(&[(name, text)]).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut found: Vec<_> = configuration
            .warnings
            .iter()
            .map(ToString::to_string)
            .collect();
        for one in expected {
            let at = found.iter().position(|warning| warning.contains(one));
            found.remove(at.unwrap_or_else(|| panic!("{name}: {one} in {found:#?}")));
        }
        assert_eq!(found, Vec::<String>::new(), "{name}");
    }
    let stack = load_files(&[("p.ini", include_str!("../corpus/papa-stack.ini"))]).unwrap();
    let nginx = stack.watcher("nginx").unwrap();
    assert_eq!(
        (nginx.stop_signal, nginx.singleton, nginx.use_papa),
        (SignalNumber(3), true, true)
    );
    assert_eq!(pairs(&nginx.other), [("active", "true")]);
    let environments =
        load_files(&[("e.ini", include_str!("../corpus/environments.ini"))]).unwrap();
    let worker = environments.watcher("worker1").unwrap();
    assert_eq!(worker.cmd, "/usr/bin/python3 --sugar 2 --id ((circus.wid))");
    assert_eq!(environments.global.umask, Some(0o2));
    let fastcgi = load_files(&[("f.ini", include_str!("../corpus/fastcgi.ini"))]).unwrap();
    assert_eq!(fastcgi.watchers[0].stdin_socket.as_deref(), Some("fcgi"));
    assert_eq!(fastcgi.watchers[0].max_retry, RetryLimit::Forever);
}
