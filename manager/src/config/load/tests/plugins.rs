//! Plugins of somebody's own become watchers.

use super::*;

#[test]
fn a_class_of_somebodys_own_runs_as_circus_ran_it() {
    let text = "[circus]\nendpoint = ipc:///c\npubsub_endpoint = ipc:///e\n\
                [env:plugin:mine]\nA = b\n\
                [plugin:mine]\nuse = my.module.Mine\nloop_rate = 2\ntext = two words\n\
                python = /venv/bin/python\n\
                [plugin:stats]\nuse = circus.plugins.statsd.StatsdEmitter\n";
    let configuration = load_files(&[("p.ini", text)]).unwrap();
    let names: Vec<&str> = configuration
        .watchers
        .iter()
        .map(|w| w.name.as_str())
        .collect();
    assert_eq!(names, ["plugin:mine"]);
    let watcher = &configuration.watchers[0];
    let words = shlex::split(&watcher.cmd).unwrap();
    assert_eq!(
        words,
        [
            "/venv/bin/python",
            "-c",
            "from circus import plugins;plugins.main()",
            "--endpoint",
            "ipc:///c",
            "--pubsub",
            "ipc:///e",
            "--config",
            "name:plugin:mine:::loop_rate:2:::text:two words",
            "--log-level",
            "INFO",
            "my.module.Mine",
        ]
    );
    assert!(watcher.singleton && watcher.close_child_stderr && watcher.priority == 1);
    assert_eq!(watcher.environment_base, EnvironmentBase::Manager);
    assert_eq!(watcher.environment.get("A").map(String::as_str), Some("b"));
}

#[test]
fn an_option_of_a_built_in_plugin_that_makes_no_sense_is_refused_with_its_line() {
    for (options, place, reason) in [
        (
            "redis_observer.RedisObserver\nredis_url = http://x",
            "3",
            "redis_url is not redis://",
        ),
        (
            "http_observer.HttpObserver\ncheck_url = https://x/",
            "3",
            "check_url is https",
        ),
        (
            "http_observer.HttpObserver\ntimeout = soon",
            "3",
            "timeout is no number of its kind: \"soon\"",
        ),
        (
            "http_observer.HttpObserver\nloop_rate = -1",
            "3",
            "loop_rate is no number of seconds: -1",
        ),
        (
            "statsd.FullStats\nport = 70000",
            "3",
            "port is no number of its kind",
        ),
        (
            "statsd.StatsdEmitter\nsample_rate = nan",
            "3",
            "sample_rate is no finite number",
        ),
        (
            "resource_watcher.ResourceWatcher\nmax_mem = 5",
            "1",
            "watcher is missing",
        ),
        (
            "resource_watcher.ResourceWatcher\nwatcher = x\nmax_mem = much",
            "4",
            "max_mem is neither percent",
        ),
        (
            "resource_watcher.ResourceWatcher\nwatcher = x\nprocess_children = maybe",
            "4",
            "process_children is neither yes nor no",
        ),
        (
            "resource_watcher.ResourceWatcher\nwatcher = x\nchild_signal = 99",
            "4",
            "child_signal is no signal",
        ),
        (
            "watchdog.WatchDog\nwatchers_regex = (",
            "3",
            "watchers_regex is no expression",
        ),
        (
            "watchdog.WatchDog\nmsg_regex = .*",
            "3",
            "msg_regex has no group named pid",
        ),
        (
            "command_reloader.CommandReloader\nactive = perhaps",
            "3",
            "active is neither yes nor no",
        ),
    ] {
        let text = format!("[plugin:p]\nuse = circus.plugins.{options}\n");
        let error = load_files(&[("p.ini", &text)]).unwrap_err();
        let said: Vec<String> = error.errors.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            said[0].ends_with(&format!("(line {place} of p.ini)")),
            "{said:?}"
        );
        assert!(
            said[0].contains(&format!("plugin \"p\": {reason}")),
            "{said:?}"
        );
    }
}

#[test]
fn an_option_that_a_built_in_plugin_does_not_know_is_said() {
    let text = "[plugin:p]\nuse = circus.plugins.watchdog.WatchDog\nlop_rate = 1\nfoo = 2\n";
    let configuration = load_files(&[("p.ini", text)]).unwrap();
    let said: Vec<String> = configuration
        .warnings
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(
        said.iter()
            .any(|one| one.contains("lop_rate is unknown; did you mean loop_rate?")),
        "{said:?}"
    );
    assert!(
        said.iter()
            .any(|one| one.contains("foo is unknown; there are active")),
        "{said:?}"
    );
}
