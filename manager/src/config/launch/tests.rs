use super::super::model::Location;
use super::*;

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

fn watcher(cmd: &str) -> WatcherConfig {
    let origin = Location::new("web.ini", 1, 1);
    WatcherConfig {
        cmd: cmd.to_owned(),
        ..WatcherConfig::with_defaults("My Web", origin)
    }
}

fn sockets() -> Vec<SocketConfig> {
    let origin = Location::new("web.ini", 1, 1);
    ["web", "admin"]
        .map(|name| SocketConfig::with_defaults(name, origin.clone()))
        .to_vec()
}

fn try_launch(watcher: &WatcherConfig) -> Result<LaunchSpec, LaunchError> {
    let environment = map(&[
        ("PATH", "/usr/bin:/bin"),
        ("PYTHONPATH", "/py"),
        ("HOME", "/root"),
    ]);
    let context = LaunchContext {
        environment: &environment,
        working_directory: Path::new("/srv"),
        umask: Some(0o27),
        sockets: &sockets(),
    };
    launch_spec(watcher, 3, None, context)
}

fn launch(watcher: &WatcherConfig) -> LaunchSpec {
    try_launch(watcher).expect("the watcher can be launched")
}

#[test]
fn a_plain_watcher_has_an_empty_environment_and_the_manager_s_path_for_its_program() {
    let spec = launch(&watcher("sleep 1000"));
    assert_eq!(spec.name, "circus.my web.3");
    assert_eq!(spec.arguments, ["sleep", "1000"]);
    assert_eq!(spec.search_path, "/usr/bin:/bin");
    assert!(spec.environment.is_empty());
    assert_eq!(spec.working_directory, Path::new("/srv"));
    assert_eq!(
        (spec.umask, spec.ids, spec.program),
        (Some(0o27), None, None)
    );
    assert_eq!(
        (spec.stdin, spec.stdout),
        (LaunchInput::Null, LaunchOutput::Captured)
    );
    assert_eq!(spec.listen, Vec::<String>::new());
}

#[test]
fn variables_of_the_spawn_are_replaced_in_command_and_arguments() {
    let mut w = watcher("$(circus.env.run) --id ((CIRCUS.WID)) -p 809$(circus.wid)");
    w.args = "$(circus.numprocesses) $(circus.shell) $(circus.graceful_timeout) \
              $(circus.stop_signal) $(circus.uid) $(circus.working_dir) $(circus.rlimits.nofile) \
              $(circus.name) $(circus.color)"
        .to_owned();
    w.environment = map(&[("RUN", "/bin/x -y")]);
    w.rlimits.insert(Resource::Nofile, LimitValue::Limit(5));
    w.other = map(&[("color", "red")]);
    let expected = [
        "/bin/x",
        "-y",
        "--id",
        "3",
        "-p",
        "8093",
        "1",
        "False",
        "30.0",
        "15",
        "None",
        "/srv",
        "5",
        "$(circus.name)",
        "red",
    ];
    assert_eq!(launch(&w).arguments, expected);
}

#[test]
fn sockets_become_the_kernel_s_variables_and_unknown_ones_stay() {
    let mut w = watcher("run --fd $(circus.sockets.WEB) fd://((circus.sockets.admin))");
    w.args = "$(circus.sockets.nope)".to_owned();
    let expected = [
        "run",
        "--fd",
        "$(socket.circus.web.fileno)",
        "fd://$(socket.circus.admin.fileno)",
        "$(circus.sockets.nope)",
    ];
    assert_eq!(launch(&w).arguments, expected);
}

#[test]
fn use_sockets_passes_all_sockets_unless_the_command_names_one() {
    let mut w = watcher("run");
    w.use_sockets = true;
    assert_eq!(launch(&w).listen, ["circus.web", "circus.admin"]);
    w.stdin_socket = Some("web".to_owned());
    assert_eq!(launch(&w).listen, ["circus.admin"]);
    assert_eq!(
        launch(&w).stdin,
        LaunchInput::Socket("circus.web".to_owned())
    );
    w.args = "$(circus.sockets.web)".to_owned();
    assert_eq!(launch(&w).listen, Vec::<String>::new());
}

#[test]
fn copy_env_lies_below_the_watcher_s_own_environment() {
    let mut w = watcher("run");
    w.environment = map(&[("HOME", "/srv"), ("PATH", "/opt/bin")]);
    w.environment_base = EnvironmentBase::Manager;
    let spec = launch(&w);
    let expected = map(&[
        ("HOME", "/srv"),
        ("PATH", "/opt/bin"),
        ("PYTHONPATH", "/py"),
    ]);
    assert_eq!(spec.environment, expected);
    assert_eq!(spec.search_path, "/opt/bin:/usr/bin:/bin");
}

#[test]
fn a_virtual_environment_comes_first() {
    let mut w = watcher("python x.py");
    w.environment_base = EnvironmentBase::Manager;
    w.virtualenv = Some("/venv".into());
    w.virtualenv_py_ver = Some("3.11".to_owned());
    let spec = launch(&w);
    assert_eq!(spec.environment["PATH"], "/venv/bin:/usr/bin:/bin");
    assert_eq!(
        spec.environment["PYTHONPATH"],
        "/venv/lib/python3.11/site-packages:/py"
    );
    assert!(spec.search_path.starts_with("/venv/bin:"));
}

#[test]
fn copy_path_hands_on_the_manager_s_python_path() {
    let mut w = watcher("run");
    w.environment_base = EnvironmentBase::Manager;
    w.environment = map(&[("PYTHONPATH", "/other")]);
    assert_eq!(launch(&w).environment["PYTHONPATH"], "/other");
    w.copy_path = true;
    assert_eq!(launch(&w).environment["PYTHONPATH"], "/py");
}

#[test]
fn a_shell_gets_every_word_quoted_and_its_own_arguments() {
    let mut w = watcher("echo 'a b' $HOME");
    w.args = "; ls".to_owned();
    w.shell = true;
    w.shell_args = Some("zero 'o n e'".to_owned());
    let expected = [
        "/bin/sh",
        "-c",
        "echo 'a b' '$HOME' ';' ls",
        "zero",
        "o n e",
    ];
    assert_eq!(launch(&w).arguments, expected);
}

#[test]
fn executable_is_run_under_the_name_of_the_command_s_first_word() {
    let mut w = watcher("worker --x");
    w.executable = Some("/opt/real".to_owned());
    let spec = launch(&w);
    assert_eq!(spec.program.as_deref(), Some("/opt/real"));
    assert_eq!(spec.arguments, ["worker", "--x"]);
}

#[test]
fn a_relative_working_directory_is_below_the_manager_s() {
    let mut w = watcher("run");
    w.working_dir = Some("app".into());
    assert_eq!(launch(&w).working_directory, Path::new("/srv/app"));
    w.working_dir = Some("/app".into());
    assert_eq!(launch(&w).working_directory, Path::new("/app"));
}

#[test]
fn what_cannot_be_launched_says_why() {
    let mut w = watcher("$(circus.env.empty)");
    w.environment = map(&[("EMPTY", ""), ("OPEN", "'")]);
    assert_eq!(
        try_launch(&w).unwrap_err().to_string(),
        "watcher \"My Web\": cmd is empty"
    );
    w.cmd = "run $(circus.env.open)".to_owned();
    let found = try_launch(&w).unwrap_err().to_string();
    assert!(
        found.contains("cmd cannot be split into words: no closing quotation mark"),
        "{found}"
    );
    let mut w = watcher("run a\0b");
    assert!(
        try_launch(&w)
            .unwrap_err()
            .to_string()
            .contains("the command line contains a NUL")
    );
    w.cmd = "run".to_owned();
    w.environment = map(&[("A", "hush\0")]);
    let found = try_launch(&w).unwrap_err().to_string();
    assert!(
        found.contains("variable \"A\" contains a NUL") && !found.contains("hush"),
        "{found}"
    );
    w.environment.clear();
    w.stdin_socket = Some("nope".to_owned());
    assert!(
        try_launch(&w)
            .unwrap_err()
            .to_string()
            .contains("does not exist: \"nope\"")
    );
}
