//! What is wrong, unknown or without effect, and how it is told.

use super::*;

#[test]
fn errors_name_file_line_section_and_key() {
    assert_eq!(
        error("[watcher:web]\ncmd = x\nnumprocesses = three\n"),
        "watcher \"web\": numprocesses is not an integer such as 5: \"three\" (line 3 of web.ini)"
    );
    let all = load_files(&[("web.ini", "[watcher:web]\ncmd = x\nnumprocesses = three\n")]);
    assert_eq!(
        all.unwrap_err().errors[0].location.to_string(),
        "web.ini:3:16"
    );
}

#[test]
fn every_error_of_every_file_is_told_in_order() {
    let found = load_files(&[
        (
            "d/web.ini",
            "[circus]\ninclude = more.ini\ncheck_delay = x\n[watcher:a]\nnonsense\n",
        ),
        (
            "d/more.ini",
            "[watcher:b]\ncmd = 'open\nrespawn = maybe\n[socket:s]\nport = 70000\n",
        ),
    ]);
    let found: Vec<_> = found
        .unwrap_err()
        .errors
        .iter()
        .map(|e| e.location.to_string())
        .collect();
    assert_eq!(
        found,
        [
            "d/web.ini:3:15",
            "d/web.ini:5:1",
            "d/more.ini:2:7",
            "d/more.ini:3:11",
            "d/more.ini:5:8"
        ]
    );
}

#[test]
fn values_out_of_range_and_of_other_types_are_errors() {
    for (line, problem) in [
        (
            "numprocesses = -1",
            "numprocesses must be from 0 to 100000: -1",
        ),
        (
            "numprocesses = 1.5",
            "numprocesses is not an integer such as 5: \"1.5\"",
        ),
        (
            "numprocesses =",
            "numprocesses is not an integer such as 5: \"\"",
        ),
        (
            "copy_env = maybe",
            "copy_env is not yes or no (true, on, 1; false, off, 0): \"maybe\"",
        ),
        (
            "graceful_timeout = -2",
            "graceful_timeout must be from 0 to a hundred years",
        ),
        (
            "graceful_timeout = soon",
            "graceful_timeout is not a number of seconds such as 2.5: \"soon\"",
        ),
        (
            "max_age = 99999999999",
            "max_age must be from 0 to a hundred years",
        ),
        ("max_retry = -2", "max_retry must not be below -1: -2"),
        (
            "stop_signal = SIGBOGUS",
            "stop_signal is not a signal such as TERM, SIGINT or 15: \"SIGBOGUS\"",
        ),
        (
            "rlimit_nofiles = 1",
            "rlimit_nofiles is no resource limit; did you mean rlimit_nofile?",
        ),
        (
            "rlimit_core = much",
            "rlimit_core is neither a number from 0 nor unlimited: \"much\"",
        ),
        (
            "args = \"open",
            "args cannot be split into words: no closing quotation mark",
        ),
        (
            "singleton = 1\nnumprocesses = 2",
            "numprocesses must be 0 or 1 for a singleton: 2",
        ),
        ("copy_path = true", "copy_path needs copy_env = true"),
        (
            "stdout_stream.class = FileStraem",
            "is no stream: \"FileStraem\"; did you mean FileStream?",
        ),
        (
            "stdout_stream.max_bytes = 1",
            "needs stdout_stream.filename or a class",
        ),
        ("stdout_stream = x", "needs an option behind it"),
        (
            "backoff_min = 31",
            "leaves no range: backoff_min is above backoff_max",
        ),
        ("buffer_bytes = 1", "buffer_bytes must"),
        (
            "stdin_socket = web",
            "stdin_socket names a socket that does not exist: \"web\"",
        ),
        (
            "hooks.after_stop = a, perhaps",
            "has neither yes nor no behind the comma",
        ),
    ] {
        let found = error(&format!("[watcher:w]\ncmd = x\n{line}\n"));
        assert!(found.contains(problem), "{line}: {found}");
        assert!(found.starts_with("watcher \"w\": "), "{found}");
    }
    assert!(error("[watcher:w]\nargs = y\n").contains("cmd is missing (line 1 of web.ini)"));
    assert!(error("[watcher:w]\ncmd =\n").contains("cmd is empty"));
    assert!(error("[circus]\numask = 9\n").contains("umask is not an octal mask"));
    assert!(error("[socket:s]\nfamily = AF_UNIX\n").contains("AF_UNIX needs a path"));
    assert!(error("[socket:s]\ntype = SOCK_RAW\n").contains("is not supported"));
    assert!(error("[plugin:p]\nx = 1\n").contains("use is missing"));
}

#[test]
fn a_missing_file_is_named() {
    let found = load(Path::new("/none.ini"), &Memory::default(), &environment()).unwrap_err();
    assert_eq!(
        found.errors[0].message,
        "the configuration file '/none.ini' does not exist"
    );
}

#[test]
fn names_that_cannot_be_names_are_errors() {
    let long = "x".repeat(10_000);
    let found = error(&format!("[watcher:{long}]\ncmd = x\n"));
    assert!(found.contains("has a name of 10000 bytes"), "{found}");
    assert!(found.len() < 300, "{}", found.len());
    assert!(error("[watcher:]\ncmd = x\n").contains("has no name"));
    assert!(error("[socket:a\tb]\nport = 1\n").contains("control character"));
    assert!(error("[socket:web*]\nport = 1\n").contains("ends in *"));
    let found = error("[watcher:web]\ncmd = x\n[watcher:Web]\ncmd = y\n");
    assert!(
        found.contains("the name is taken") && found.ends_with("(line 3 of web.ini)"),
        "{found}"
    );
    let configuration = good("[watcher: A b ]\ncmd = x\n");
    assert_eq!(configuration.watchers[0].name, " A b ");
    assert!(
        configuration.warnings[0]
            .message
            .contains("spaces at the ends")
    );
    assert!(configuration.watcher(" a B ").is_some());
}

#[test]
fn unknown_keys_and_sections_are_named_with_what_was_probably_meant() {
    assert_eq!(
        warning("[watcher:w]\ncmd = x\nnum_processes = 2\n"),
        "watcher \"w\": \"num_processes\" is unknown; did you mean numprocesses? (line 3 of web.ini)"
    );
    assert!(warning("[circus]\ncheck_dely = 2\n").contains("did you mean check_delay?"));
    assert!(
        warning("[watchers:w]\ncmd = x\n")
            .contains("[watchers:w] is unknown and ignored; did you mean watcher?")
    );
    let found = warnings(
        "[watcher:w]\n  cmd = x\ncmd = y\nstdout_stream.class = StdoutStream\nstdout_stream.filname = y\n",
    );
    assert!(found[0].contains("did you mean cmd?"), "{found:?}");
    assert!(
        found[1].contains("stdout_stream.filname is unknown"),
        "{found:?}"
    );
    let w = watcher("colour = red\nCMD = z");
    assert_eq!(pairs(&w.other), [("CMD", "z"), ("colour", "red")]);
    assert!(warning("[watcher:w]\n").contains("has no options and is skipped"));
}

#[test]
fn what_is_not_supported_yet_is_named_unless_it_says_what_holds_anyway() {
    let found = warning("[circus]\nstatsd = no\nhttpd = 1\n");
    assert!(found.contains("is not supported yet"), "{found}");
    assert!(found.contains("there is no web console"), "{found}");
    assert!(found.contains("(line 3 of web.ini)"), "{found}");
    let text = "[circus]\nhttpd = 0\nstatsd = no\ndebug = false\n[watcher:w]\ncmd = x\n";
    assert_eq!(warnings(text), Vec::<String>::new());
}

#[test]
fn what_is_written_in_vain_is_named() {
    for (lines, problem) in [
        ("cmd = a | b\nshell = yes", "cmd is quoted word by word"),
        ("cmd = a $HOME\nshell = yes", "cmd is quoted word by word"),
        ("cmd = a -$WID", "write $(circus.wid)"),
        ("cmd = a\nshell_args = b", "has no effect without shell"),
        ("cmd = a\nnumprocesses = 0", "nothing runs until"),
        (
            "cmd = a\nnumprocesses = 2\nalive = tcp 127.0.0.1:80",
            "alive asks all processes at one address",
        ),
        ("cmd = a\nmax_retry = 0", "gives up at the first failure"),
        ("cmd = a\nclose_child_stdin = no", "cannot share its input"),
        (
            "cmd = a\ncopy_env = yes\nvirtualenv = /v",
            "virtualenv without virtualenv_py_ver",
        ),
        (
            "cmd = a\nstdout_stream.filename = f\nstdout_stream.max_bytes = 5",
            "has no effect while stdout_stream.backup_count is 0",
        ),
        (
            "cmd = a\nstdout_stream.class = FileStream",
            "needs stdout_stream.filename",
        ),
        (
            "cmd = a\nstdout_stream.class = StdoutStream\nstdout_stream.color = red",
            "has no effect on a StdoutStream",
        ),
        (
            "cmd = a\nstdout_stream.class = StdoutStream\nstdout_stream.x = 1",
            "is unknown and has no effect",
        ),
        ("cmd = a\nzzz = 1", "\"zzz\" is unknown and has no effect"),
        (
            "cmd = a\nzzz = 1\nhooks.after_stop = b.c",
            "\"zzz\" is unknown; only hooks can read it",
        ),
        (
            "cmd = a\nhooks.after_stopp = b\n",
            "did you mean hooks.after_stop?",
        ),
        ("cmd = a\nenv = A=1", "write a section [env:NAME]"),
    ] {
        let found = warnings(&format!("[watcher:w]\n{lines}\n"));
        assert!(
            found.iter().any(|warning| warning.contains(problem)),
            "{lines}: {found:?}"
        );
    }
    for lines in [
        "cmd = a $(circus.wid)\nshell = yes",
        "cmd = a\nclose_child_stdin = yes",
        "cmd = a\nstdout_stream.filename = f\nstdout_stream.max_bytes = 0",
    ] {
        let found = warnings(&format!("[watcher:w]\n{lines}\n"));
        assert_eq!(found, Vec::<String>::new(), "{lines}");
    }
}

#[test]
fn of_too_many_warnings_the_number_is_told() {
    let mut text = "[watcher:w]\ncmd = x\n".to_owned();
    for at in 0..limits::DIAGNOSTICS + 50 {
        text.push_str(&format!("zzz{at}zzz = 1\n"));
    }
    let found = warnings(&text);
    assert_eq!(found.len(), limits::DIAGNOSTICS + 1);
    assert!(
        found
            .last()
            .unwrap()
            .starts_with("50 more from here on are not shown")
    );
}

#[test]
fn a_name_that_grows_in_lower_case_is_measured_there() {
    let name = "\u{130}".repeat(limits::NAME_BYTES / 2);
    assert!(error(&format!("[watcher:{name}]\ncmd = x\n")).contains("has a name of 300 bytes"));
}

#[test]
fn a_socket_has_the_protocol_of_its_type_and_no_other() {
    let socket = |lines: &str| format!("[socket:s]\nport = 1\n{lines}\n");
    for lines in [
        "proto = TCP",
        "type = SOCK_DGRAM\nproto = udp",
        "proto = ip",
        "proto =",
    ] {
        assert_eq!(warnings(&socket(lines)), Vec::<String>::new(), "{lines}");
    }
    let found = error(&socket("type = SOCK_DGRAM\nproto = tcp"));
    assert!(
        found.contains("proto is udp for this type: \"tcp\""),
        "{found}"
    );
    let found = error("[socket:s]\npath = /x\nproto = tcp\n");
    assert!(found.contains("means nothing on a unix socket"), "{found}");
    let found = warning(&socket("so_reuseport = yes\nblocking = no"));
    assert!(
        found.contains("has no effect beside so_reuseport"),
        "{found}"
    );
    assert_eq!(
        good(&socket("blocking = no")).sockets[0].blocking,
        Some(Blocking::No)
    );
    assert_eq!(good(&socket("")).sockets[0].blocking, None);
}

#[test]
fn a_plugin_that_names_no_watcher_is_told_of() {
    let plugin = |lines: &str| format!("[watcher:Web]\ncmd = x\n[plugin:p]\n{lines}\n");
    for (class, key) in [
        ("resource_watcher.ResourceWatcher", "watcher"),
        ("http_observer.HttpObserver", "restart_on_error"),
        ("redis_observer.RedisObserver", "restart_on_timeout"),
    ] {
        let lines = |name: &str| format!("use = circus.plugins.{class}\n{key} = {name}");
        let found = warning(&plugin(&lines("wbe")));
        assert!(
            found.contains(&format!("{key} names a watcher that does not exist")),
            "{found}"
        );
        assert!(found.contains("did you mean Web?"), "{found}");
        assert!(found.contains("(line 5 of web.ini)"), "{found}");
        assert_eq!(warnings(&plugin(&lines("web"))), Vec::<String>::new());
    }
}

#[test]
fn papa_endpoint_is_an_address_of_this_machine() {
    let circus = |text: &str| format!("[circus]\npapa_endpoint = {text}\n");
    assert_eq!(
        warnings(&circus("ipc:/run/papa.sock")),
        Vec::<String>::new()
    );
    let found = error(&circus("tcp://0.0.0.0:20202"));
    assert!(
        found.contains("papa_endpoint is not ipc:/PATH or tcp://127.0.0.1:PORT"),
        "{found}"
    );
}
