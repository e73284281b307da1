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
