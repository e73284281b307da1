//! Promise: two managers never both act. A lease has one holder, its number grows with every grant,
//! and requests that carry an old number are refused, all of them.

use kingpole_protocol::client::blocking::{Client, Notice};
use kingpole_protocol::event::Event;
use kingpole_protocol::reply::Reply;
use kingpole_protocol::request::{
    CloseSocket, Commit, ListLeases, MakeSocket, ReleaseLease, Remove, Request, Signal,
    SignalTarget, Spawn, TakeLease, ValueChange,
};
use kingpole_protocol::spec::{SocketAddress, SocketKind, SocketSpec};
use kingpole_protocol::status::LeaseInfo;
use kingpole_protocol::{ErrorCode, Fence};
use kingpole_tests::kernel::refused;
use kingpole_tests::puppet::{self, Puppet};
use kingpole_tests::{Kernel, wait};

fn take(name: &str) -> TakeLease {
    TakeLease {
        name: name.to_owned(),
        resume: Fence::NONE,
        take_over: false,
    }
}

fn leases(client: &mut Client) -> Vec<LeaseInfo> {
    match client
        .call(ListLeases {
            after: String::new(),
            limit: u32::MAX,
        })
        .unwrap()
    {
        Reply::Leases(page) => page.items,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_lease_has_one_holder_and_the_refusal_names_it() {
    let kernel = Kernel::start();
    let mut first = kernel.try_client("first-manager/1.0").unwrap();
    let mut second = kernel.try_client("second-manager/1.0").unwrap();
    let fence = first.take_lease(take("manager")).unwrap();
    assert!(fence > Fence::NONE);
    let error = refused(second.take_lease(take("manager")));
    assert_eq!(error.code, ErrorCode::LEASE_HELD, "{error:?}");
    assert!(error.message.contains("first-manager/1.0"), "{error:?}");
    assert_eq!(
        first.take_lease(take("manager")).unwrap(),
        fence,
        "again by its holder"
    );
    let other = second.take_lease(take("another lease")).unwrap();
    assert!(other > fence);
    let listed: Vec<(String, Fence, String)> = leases(&mut first)
        .into_iter()
        .map(|l| (l.name, l.fence, l.client))
        .collect();
    assert_eq!(
        listed,
        [
            (
                "another lease".to_owned(),
                other,
                "second-manager/1.0".to_owned()
            ),
            ("manager".to_owned(), fence, "first-manager/1.0".to_owned()),
        ]
    );
}

#[test]
fn who_is_taken_over_is_told_and_can_do_nothing_any_more() {
    let kernel = Kernel::start();
    let mut old = kernel.client();
    let fence = old.take_lease(take("manager")).unwrap();
    let puppet = Puppet::spawn(&kernel, &mut old, "child", |_| {});
    let socket = SocketSpec {
        name: "socket".into(),
        address: SocketAddress::Inet {
            host: "127.0.0.1".into(),
            port: 0,
        },
        kind: SocketKind::Stream,
        backlog: 1,
        interface: None,
        reuseport: false,
    };
    old.make_socket(socket.clone()).unwrap();

    let mut new = kernel.client();
    let newer = new
        .take_lease(TakeLease {
            take_over: true,
            ..take("manager")
        })
        .unwrap();
    assert!(newer > fence);
    match old.next_notice(Some(wait::PATIENCE)).unwrap() {
        Some(Notice::Event(Event::LeaseLost(lost))) => {
            assert_eq!((lost.name.as_str(), lost.lease), ("manager", fence));
        }
        other => panic!("not told: {other:?}"),
    }

    let process = puppet.process();
    let change = ValueChange {
        key: "k".into(),
        value: Some("v".into()),
    };
    let requests: Vec<Request> = vec![
        Spawn {
            key: "late".into(),
            spec: puppet::program("late", &["/bin/true"]),
        }
        .into(),
        Signal {
            process,
            signal: libc::SIGKILL,
            target: SignalTarget::Process,
        }
        .into(),
        Remove { process }.into(),
        Commit {
            values: vec![change],
            ..Commit::default()
        }
        .into(),
        MakeSocket {
            spec: SocketSpec {
                name: "late".into(),
                ..socket
            },
        }
        .into(),
        CloseSocket {
            name: "socket".into(),
        }
        .into(),
        ReleaseLease { lease: newer }.into(),
    ];
    for request in requests {
        let name = request.name();
        let error = refused(old.call(request));
        assert_eq!(error.code, ErrorCode::FENCED, "{name}: {error:?}");
    }
    // Nothing of it has happened.
    let processes = new.processes().unwrap();
    assert_eq!(processes.len(), 1);
    assert_eq!(processes[0].end, None);
    assert_eq!(new.sockets().unwrap().len(), 1);
    assert_eq!(new.values("").unwrap(), []);
    assert_eq!(leases(&mut new)[0].fence, newer);
}

#[test]
fn a_lease_outlives_its_session_and_can_be_resumed_until_somebody_takes_it() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let fence = client.take_lease(take("manager")).unwrap();
    drop(client);
    let mut back = kernel.client();
    let resumed = back
        .take_lease(TakeLease {
            resume: fence,
            ..take("manager")
        })
        .unwrap();
    assert_eq!(resumed, fence, "a resumed lease keeps its number");
    drop(back);

    let mut other = kernel.client();
    let newer = wait::until("the lease of a session that has gone can be had", || {
        other.take_lease(take("manager")).map_err(|e| e.to_string())
    });
    assert!(newer > fence);
    let mut late = kernel.client();
    let error = refused(late.take_lease(TakeLease {
        resume: fence,
        ..take("manager")
    }));
    assert_eq!(error.code, ErrorCode::FENCED, "{error:?}");
    late.set_fence(fence);
    let error = refused(late.commit(Commit::default()));
    assert_eq!(error.code, ErrorCode::FENCED, "{error:?}");
}

#[test]
fn a_number_never_comes_back() {
    let kernel = Kernel::start();
    let mut last = Fence::NONE;
    for _ in 0..20 {
        let mut client = kernel.client();
        let fence = client
            .take_lease(TakeLease {
                take_over: true,
                ..take("manager")
            })
            .unwrap();
        assert!(fence > last, "{fence} after {last}");
        last = fence;
        client.call(ReleaseLease { lease: fence }).unwrap();
        let error = refused(client.commit(Commit::default()));
        assert_eq!(
            error.code,
            ErrorCode::FENCED,
            "a released lease is void: {error:?}"
        );
    }
    assert_eq!(kernel.client().welcome().newest_fence, last);
}

#[test]
fn whoever_needs_no_lease_is_served_without() {
    let kernel = Kernel::start();
    let mut holder = kernel.client();
    holder.take_lease(take("manager")).unwrap();
    let mut guest = kernel.client();
    let change = ValueChange {
        key: "guest".into(),
        value: Some("1".into()),
    };
    guest
        .commit(Commit {
            values: vec![change],
            ..Commit::default()
        })
        .unwrap();
    assert_eq!(holder.values("guest").unwrap().len(), 1);
}

#[test]
fn names_of_leases_are_checked() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    for name in ["", "a\nb", &"x".repeat(10_000), "w*"] {
        let error = refused(client.take_lease(take(name)));
        assert_eq!(error.code, ErrorCode::INVALID, "{error:?}");
    }
}
