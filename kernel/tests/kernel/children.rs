//! Children get what their specification says, and are forgotten when nobody needs them.

use crate::harness::{Kernel, PATIENCE, follow_to_the_end, script, until};
use crate::{end_of, inet, refused};
use kingpole_protocol::client::blocking::Notice;
use kingpole_protocol::error::ErrorCode;
use kingpole_protocol::event::Event;
use kingpole_protocol::reply::Reply;
use kingpole_protocol::request::{Remove, SignalTarget, Spawn};
use kingpole_protocol::spec::{LimitSpec, SocketAddress, SocketSpec, StdinSpec};
use kingpole_protocol::status::EndStatus;
use nix::sys::signal::kill;
use nix::unistd::Pid;

#[test]
fn what_is_not_started_leaves_nothing_and_says_why() {
    let kernel = Kernel::start();
    let mut client = kernel.connect();
    let mut missing = script("a", "true");
    missing.arguments = vec!["/nonexistent/program".into()];
    let error = refused(client.spawn("k1", missing));
    assert_eq!(
        (error.code, error.errno),
        (ErrorCode::SPAWN_FAILED, nix::libc::ENOENT)
    );
    assert_eq!(error.step, "exec");
    let mut lost = script("a", "true");
    lost.working_directory = "/nonexistent".into();
    let error = refused(client.spawn("k2", lost));
    assert_eq!(
        (error.step.as_str(), error.errno),
        ("working-directory", nix::libc::ENOENT)
    );
    let long = refused(client.spawn("k3", script(&"n".repeat(10_000), "true")));
    assert_eq!(long.code, ErrorCode::INVALID);
    assert_eq!(
        refused(client.spawn("k4", script("a\nb", "true"))).code,
        ErrorCode::INVALID
    );
    assert_eq!(
        refused(client.spawn("", script("a", "true"))).code,
        ErrorCode::INVALID
    );
    assert!(client.processes().unwrap().is_empty());
    let status = client.status().unwrap();
    client.spawn("k", script("a", "true")).unwrap();
    assert_eq!(status.processes_running, 0);
    assert_eq!(
        kernel.log().matches("not started").count(),
        2,
        "{}",
        kernel.log()
    );
}

#[test]
fn a_spawn_has_exactly_what_its_request_says() {
    let kernel = Kernel::start();
    let mut client = kernel.connect();
    let text = "umask; pwd; ulimit -n; env; ls /proc/$$/fd; readlink /proc/$$/fd/0";
    let mut spec = script("a", text);
    spec.environment.push(("B".into(), "two words".into()));
    spec.working_directory = "/usr".into();
    spec.umask = Some(0o77);
    spec.limits = vec![LimitSpec {
        resource: 7,
        soft: 123,
        hard: 123,
    }];
    let process = client.spawn("k", spec).unwrap().process.process;
    let seen = follow_to_the_end(&mut client, process);
    let text = String::from_utf8(seen.stdout).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("0077"));
    assert_eq!(lines.next(), Some("/usr"));
    assert_eq!(lines.next(), Some("123"));
    let mut rest = lines.collect::<Vec<_>>();
    assert_eq!(rest.split_off(rest.len() - 4), ["0", "1", "2", "/dev/null"]);
    rest.retain(|line| !line.starts_with("PWD=") && !line.starts_with("_="));
    rest.retain(|line| !line.starts_with("SHLVL=") && !line.starts_with("OLDPWD="));
    assert_eq!(rest, ["PATH=/usr/bin:/bin", "B=two words"]);
}

#[test]
fn children_get_the_descriptor_limit_that_the_kernel_was_started_with() {
    let kernel = Kernel::start();
    let mut client = kernel.connect();
    let process = client
        .spawn("k", script("a", "ulimit -Sn; ulimit -Hn"))
        .unwrap()
        .process
        .process;
    let seen = follow_to_the_end(&mut client, process);
    let (soft, hard) =
        nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    let shown = |limit: u64| match limit {
        u64::MAX => "unlimited".to_owned(),
        limit => limit.to_string(),
    };
    let expected = format!("{}\n{}\n", shown(soft), shown(hard));
    assert_eq!(String::from_utf8(seen.stdout).unwrap(), expected);
}

#[test]
fn sockets_reach_children_by_number_by_listen_fds_and_as_stdin() {
    let kernel = Kernel::start();
    let mut client = kernel.connect();
    // An address that nobody else uses: nobody takes the port once it is free.
    let [.., high, low] = std::process::id().to_be_bytes();
    let host = format!("127.{high}.{low}.9");
    let web = SocketSpec {
        address: SocketAddress::Inet {
            host: host.clone(),
            port: 0,
        },
        ..inet("web")
    };
    let made = client.make_socket(web.clone()).unwrap();
    assert!(client.make_socket(web.clone()).unwrap().existed);
    let mut other = web;
    other.backlog = 6;
    assert_eq!(
        refused(client.make_socket(other)).code,
        ErrorCode::ALREADY_EXISTS
    );
    let SocketAddress::Inet { port, .. } = made.socket.spec.address else {
        panic!()
    };
    assert!(port > 0);
    client
        .make_socket(SocketSpec {
            reuseport: true,
            ..inet("shared")
        })
        .unwrap();
    let text = "readlink /proc/self/fd/0 /proc/self/fd/3 /proc/self/fd/$1 /proc/self/fd/$3; \
                echo $2 $LISTEN_FDS $LISTEN_FDNAMES; test $LISTEN_PID = $$ && echo mine";
    let mut spec = script("a", text);
    spec.arguments.push("sh".into());
    spec.arguments.push("$(socket.web.fileno)".into());
    spec.arguments.push("$(socket.web.port)".into());
    spec.arguments.push("$(socket.shared.fileno)".into());
    spec.listen = vec!["web".into()];
    spec.stdin = StdinSpec::Socket("web".into());
    let process = client.spawn("k", spec).unwrap().process.process;
    let seen = follow_to_the_end(&mut client, process);
    let text = String::from_utf8(seen.stdout).unwrap();
    let lines = text.lines().collect::<Vec<_>>();
    assert_eq!(lines.len(), 6, "{text}");
    assert!(lines[0].starts_with("socket:[") && lines[1] == lines[0] && lines[2] == lines[0]);
    assert!(
        lines[3].starts_with("socket:[") && lines[3] != lines[0],
        "a fresh one: {text}"
    );
    assert_eq!(lines[4], format!("{port} 1 web"));
    assert_eq!(lines[5], "mine");
    std::net::TcpStream::connect((&*host, port)).unwrap();
    client.close_socket("web").unwrap();
    // A guard that has much to do lets go of its copy a little later.
    until(
        "the port to be closed",
        || match std::net::TcpStream::connect((&*host, port)) {
            Err(_) => Ok(()),
            Ok(connection) => Err(format!("{connection:?}")),
        },
    );
    assert_eq!(
        refused(client.close_socket("web")).code,
        ErrorCode::NOT_FOUND
    );
}

#[test]
fn a_removed_process_runs_on_unheard_and_is_forgotten_at_its_end() {
    let kernel = Kernel::start();
    let mut client = kernel.connect();
    client.subscribe().unwrap();
    let child = client
        .spawn("k", script("a", "while :; do echo x; done"))
        .unwrap()
        .process;
    let process = child.process;
    client.call(Remove { process }).unwrap();
    kill(Pid::from_raw(child.pid), None).expect("it was not signalled");
    client.signal(process, 15, SignalTarget::Process).unwrap();
    loop {
        match client.next_notice(Some(PATIENCE)).unwrap() {
            Some(Notice::Event(Event::ProcessRemoved(gone))) => {
                assert_eq!(gone.process, process);
                break;
            }
            Some(_) => {}
            None => panic!("it is not forgotten"),
        }
    }
    assert!(client.processes().unwrap().is_empty());
}

#[test]
fn a_repeated_spawn_answers_with_the_first() {
    let kernel = Kernel::start();
    let mut client = kernel.connect();
    let first = client.spawn("k", script("a", "exit 3")).unwrap();
    let again = client
        .call(Spawn {
            key: "k".into(),
            spec: script("a", "exit 4"),
        })
        .unwrap();
    let Reply::Spawned(again) = again else {
        panic!("{again:?}")
    };
    assert!(again.existed && again.process.process == first.process.process);
    assert_eq!(
        end_of(&mut client, first.process.process),
        EndStatus::Exited(3)
    );
    assert!(client.spawn("k", script("a", "exit 5")).unwrap().existed);
}
