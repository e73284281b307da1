mod corpus;
mod plugins;
mod wrong;

use std::time::Duration;

use proptest::prelude::*;

use super::super::keys;
use super::super::model::*;
use super::*;

/// Files by path.
#[derive(Default)]
struct Memory(BTreeMap<PathBuf, Vec<u8>>);

impl Files for Memory {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0
            .get(path)
            .cloned()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&self, directory: &Path) -> Vec<String> {
        let directory = if directory == Path::new(".") {
            Path::new("")
        } else {
            directory
        };
        let inside = self
            .0
            .keys()
            .filter(|path| path.parent() == Some(directory));
        // Backwards, so that an order that is right is ours and not the file system's.
        inside
            .rev()
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect()
    }

    fn exists(&self, path: &Path) -> bool {
        self.0.contains_key(path)
    }
}

fn environment() -> BTreeMap<String, String> {
    let pairs = [
        ("HOME", "/root"),
        ("PATH", "/usr/bin:/bin"),
        ("COUNT", "4"),
        ("SECRET", "hush"),
    ];
    pairs
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}

fn load_files(files: &[(&str, &str)]) -> Result<Configuration, LoadError> {
    let memory = files
        .iter()
        .map(|(path, text)| (PathBuf::from(path), text.as_bytes().to_vec()));
    load(
        Path::new(files[0].0),
        &Memory(memory.collect()),
        &environment(),
    )
}

fn good(text: &str) -> Configuration {
    load_files(&[("web.ini", text)]).unwrap_or_else(|error| panic!("{:#?}", error.errors))
}

/// Errors as logs show them.
fn errors(text: &str) -> Vec<String> {
    let error = load_files(&[("web.ini", text)]).expect_err("the configuration is wrong");
    error.errors.iter().map(ToString::to_string).collect()
}

fn error(text: &str) -> String {
    let mut all = errors(text);
    assert_eq!(all.len(), 1, "{all:#?}");
    all.remove(0)
}

fn warnings(text: &str) -> Vec<String> {
    good(text)
        .warnings
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn warning(text: &str) -> String {
    let mut all = warnings(text);
    assert_eq!(all.len(), 1, "{all:#?}");
    all.remove(0)
}

/// The one watcher of a configuration whose watcher section has these lines below `cmd = x`.
fn watcher(lines: &str) -> WatcherConfig {
    good(&format!("[watcher:w]\ncmd = x\n{lines}\n"))
        .watchers
        .remove(0)
}

fn pairs(environment: &BTreeMap<String, String>) -> Vec<(&str, &str)> {
    environment
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect()
}

#[test]
fn what_is_not_written_has_circus_s_defaults() {
    let configuration = good("[watcher:W]\ncmd = x\n");
    let origin = Location::new("web.ini", 1, 1);
    let mut expected = WatcherConfig::with_defaults("W", origin);
    expected.cmd = "x".to_owned();
    expected.options.insert("cmd".to_owned(), "x".to_owned());
    expected
        .written_at
        .insert("cmd".to_owned(), Location::new("web.ini", 2, 7));
    assert_eq!(configuration.watchers, [expected]);
    assert_eq!(configuration.global, GlobalSettings::default());
    assert_eq!(configuration.warnings, []);
    let socket = good("[socket:Web]\nport = 0\n").sockets.remove(0);
    assert_eq!(socket.name, "web");
    assert_eq!((socket.backlog, socket.kind), (2048, SocketKind::Stream));
    let (host, version) = ("localhost".to_owned(), IpVersion::V4);
    assert_eq!(
        socket.address,
        SocketAddress::Inet {
            host,
            port: 0,
            version
        }
    );
}

#[test]
fn every_watcher_option_is_read() {
    let w = watcher(
        "args = a b\nexecutable = /bin/y\nnumprocesses = 3\nwarmup_delay = 2\nworking_dir = /srv\n\
         shell = yes\nshell_args = z\nuid = www-data\ngid = 33\ncopy_env = on\ncopy_path = 1\n\
         virtualenv = /venv\nvirtualenv_py_ver = 3.11\nsend_hup = true\nstop_signal = rtmin+1\n\
         stop_children = true\ngraceful_timeout = 0.5\nmax_retry = -1\npriority = -7\n\
         use_sockets = TRUE\non_demand = true\nmax_age = 60\nmax_age_variance = 5\n\
         respawn = no\nautostart = off\nclose_child_stdin = false\nclose_child_stdout = true\n\
         close_child_stderr = true\nrlimit_nofile = 500\nrlimit_CORE =\nrlimit_stack = -1\n\
         use_papa = true\nbackoff_min = 1\nbackoff_max = 8\nbackoff_reset = 2.5\n\
         buffer_bytes = 65536\nhooks.before_start = a.b, true\nhooks.after_stop = c:d",
    );
    assert_eq!(
        (w.args.as_str(), w.numprocesses, w.priority),
        ("a b", 3, -7)
    );
    assert_eq!(w.executable.as_deref(), Some("/bin/y"));
    assert_eq!(w.warmup_delay, Duration::from_secs(2));
    assert_eq!(w.working_dir, Some("/srv".into()));
    assert_eq!((w.shell, w.shell_args.as_deref()), (true, Some("z")));
    assert_eq!(
        (w.uid.as_deref(), w.gid.as_deref()),
        (Some("www-data"), Some("33"))
    );
    assert_eq!(
        (w.environment_base, w.copy_path),
        (EnvironmentBase::Manager, true)
    );
    assert_eq!(w.virtualenv, Some("/venv".into()));
    assert_eq!(w.virtualenv_py_ver.as_deref(), Some("3.11"));
    assert_eq!(
        (w.send_hup, w.stop_children, w.stop_signal),
        (true, true, SignalNumber(35))
    );
    assert_eq!(w.graceful_timeout, Duration::from_millis(500));
    assert_eq!(w.max_retry, RetryLimit::Forever);
    assert_eq!(
        (w.use_sockets, w.on_demand, w.respawn, w.autostart),
        (true, true, false, false)
    );
    assert_eq!(w.max_age, Some(Duration::from_secs(60)));
    assert_eq!(w.max_age_variance, Duration::from_secs(5));
    assert_eq!(
        (
            w.close_child_stdin,
            w.close_child_stdout,
            w.close_child_stderr
        ),
        (false, true, true)
    );
    let limits = [
        (Resource::Core, LimitValue::Infinity),
        (Resource::Nofile, LimitValue::Limit(500)),
        (Resource::Stack, LimitValue::Infinity),
    ];
    assert_eq!(w.rlimits, BTreeMap::from(limits));
    assert!(w.use_papa);
    assert_eq!(
        (w.backoff.min, w.backoff.max),
        (Duration::from_secs(1), Duration::from_secs(8))
    );
    assert_eq!(w.backoff.reset_after, Duration::from_millis(2500));
    assert_eq!(w.buffer_bytes, 65536);
    assert_eq!(w.hooks["before_start"].target, "a.b");
    assert!(w.hooks["before_start"].ignore_failure && !w.hooks["after_stop"].ignore_failure);
    assert_eq!(w.hooks["after_stop"].target, "c:d");
    assert!(w.other.is_empty());
}

#[test]
fn every_global_option_is_read() {
    let configuration = good(
        "[circus]\ncheck_delay = 0.5\nwarmup_delay = 3\numask = 027\npidfile = /p\n\
         loglevel = DEBUG\nlogoutput = /l\nendpoint = ipc:///e\npubsub_endpoint = ipc:///f\n\
         stats_endpoint = ipc:///g\nhttpd_port = 81\nfqdn_prefix = me\n",
    );
    let g = &configuration.global;
    assert_eq!(g.check_delay, Duration::from_millis(500));
    assert_eq!(g.warmup_delay, Duration::from_secs(3));
    assert_eq!(
        (g.umask, g.pidfile.clone()),
        (Some(0o27), Some("/p".into()))
    );
    assert_eq!(
        (g.loglevel, g.logoutput.as_deref()),
        (Some(LogLevel::Debug), Some("/l"))
    );
    assert_eq!(g.endpoint.as_deref(), Some("ipc:///e"));
    assert!(g.statsd, "an endpoint for statistics switches them on");
    assert_eq!((g.httpd, g.httpd_port), (false, 81));
}

#[test]
fn sockets_are_read_in_all_families() {
    let configuration = good(
        "[socket:a]\npath = /run/a\numask = 7\nreplace = yes\n[socket:b]\nfamily = af_inet6\n\
         host = ::1\nport = 80\nbacklog = 5\ninterface = lo\n[socket:c]\ntype = sock_dgram\n\
         so_reuseport = 1\nuse_papa = true\n",
    );
    let [a, b, c] = configuration.sockets.as_slice() else {
        panic!("three sockets")
    };
    let unix = SocketAddress::Unix {
        path: "/run/a".into(),
        umask: 7,
        replace: true,
    };
    assert_eq!(a.address, unix);
    let (host, version) = ("::1".to_owned(), IpVersion::V6);
    assert_eq!(
        b.address,
        SocketAddress::Inet {
            host,
            port: 80,
            version
        }
    );
    assert_eq!((b.backlog, b.interface.as_deref()), (5, Some("lo")));
    assert_eq!(
        (c.kind, c.so_reuseport, c.use_papa),
        (SocketKind::Dgram, true, true)
    );
}

#[test]
fn streams_are_read_with_their_classes() {
    let w = watcher(
        "stdout_stream.filename = /a\nstdout_stream.max_bytes = 1_000\n\
         stdout_stream.backup_count = 2\nstderr_stream.class = circus.stream.StdoutStream",
    );
    let file = FileStreamConfig {
        filename: "/a".into(),
        max_bytes: Some(1000),
        backup_count: 2,
        truncate: false,
        lines: LineFormat::Raw,
    };
    assert_eq!(w.stdout_stream, StreamConfig::File(file));
    let lines = LineFormat::Raw;
    assert_eq!(w.stderr_stream, StreamConfig::Stdout { lines });
    let text = "[watcher:w]\ncmd = x\nstdout_stream.class = TimedRotatingFileStream\n\
                stdout_stream.filename = f\nstdout_stream.rotate_when = midnight\n";
    let configuration = good(text);
    let StreamConfig::TimedRotatingFile(timed) = &configuration.watchers[0].stdout_stream else {
        panic!("{:?}", configuration.watchers[0].stdout_stream)
    };
    assert_eq!(
        (timed.rotate_when.as_str(), timed.rotate_interval),
        ("MIDNIGHT", 1)
    );
    assert_eq!(configuration.warnings, []);
}

#[test]
fn streams_of_ours_are_read_with_their_defaults() {
    let w = watcher(
        "stdout_stream.class = CommandStream\nstdout_stream.command = rotatelogs 'a b'\n\
         stdout_stream.format = json\nstderr_stream.class = SyslogStream\n\
         stderr_stream.facility = LOCAL3",
    );
    let command = StreamConfig::Command {
        command: "rotatelogs 'a b'".to_owned(),
        lines: LineFormat::Json,
    };
    assert_eq!(w.stdout_stream, command);
    let syslog = StreamConfig::Syslog {
        address: "/dev/log".into(),
        facility: 19,
        ident: None,
    };
    assert_eq!(w.stderr_stream, syslog);
    let w = watcher(
        "stdout_stream.class = JournalStream\nstdout_stream.ident = me\n\
         stderr_stream.filename = f\nstderr_stream.max_bytes = 9\nstderr_stream.truncate = 1",
    );
    let journal = StreamConfig::Journal {
        address: "/run/systemd/journal/socket".into(),
        ident: Some("me".to_owned()),
    };
    assert_eq!(w.stdout_stream, journal);
    assert!(matches!(w.stderr_stream, StreamConfig::File(file) if file.truncate));
}

#[test]
fn a_stream_that_is_none_of_ours_is_refused_with_what_to_use() {
    let error = |class: &str| {
        let text = format!("[watcher:w]\ncmd = x\nstdout_stream.class = {class}\n");
        let found = load_files(&[("web.ini", &text)]).unwrap_err();
        assert_eq!(found.errors.len(), 1, "{:?}", found.errors);
        found.errors[0].to_string()
    };
    for class in ["my.app.Stream", "QueueStream", "circus.stream.QueueStream"] {
        let message = error(class);
        assert!(message.contains("class of Python's"), "{message}");
        assert!(message.contains("CommandStream"), "{message}");
        assert!(message.contains("line 3"), "{message}");
    }
    assert!(error("filestream").contains("did you mean FileStream?"));
    assert!(error("CommandStream").contains("needs stdout_stream.command"));
    assert!(error("Nonsense").contains("use one of FileStream"));
}

#[test]
fn the_first_value_of_a_file_stands_and_the_second_is_named() {
    let text = "[watcher:w]\ncmd = x\nargs = 1\n[watcher:w]\nargs = 2\npriority = 3\n";
    let configuration = good(text);
    assert_eq!(configuration.watchers[0].args, "1");
    assert_eq!(configuration.watchers[0].priority, 3);
    assert_eq!(
        warning(text),
        "[watcher:w] \"args\" is written again; the value of line 3 stands (line 5 of web.ini)"
    );
}

#[test]
fn default_fills_every_section() {
    let text = "[DEFAULT]\nnumprocesses = 2\n[circus]\ncheck_delay = 1\n[watcher:a]\ncmd = x\n\
                [watcher:b]\ncmd = x\nnumprocesses = 3\n[watcher:c]\n";
    let found = load_files(&[("web.ini", text)]).unwrap_err();
    // Not skipped as an empty section is: it has an option.
    assert_eq!(found.errors.len(), 1);
    assert!(found.errors[0].message.contains("\"c\": cmd is missing"));
    let configuration = good(&text.replace("[watcher:c]\n", ""));
    let counts: Vec<_> = configuration
        .watchers
        .iter()
        .map(|w| w.numprocesses)
        .collect();
    assert_eq!(counts, [2, 3]);
    assert_eq!(configuration.warnings, []);
}

#[test]
fn includes_are_found_in_order_and_earlier_files_win() {
    let configuration = load_files(&[
        ("etc/web.ini", "[circus]\ninclude = z.ini $(circus.env.count).ini\n  none*.ini\ninclude_dir = conf.d\nwarmup_delay = 1\n"),
        ("etc/z.ini", "[watcher:w]\ncmd = z\n[circus]\nwarmup_delay = 2\ninclude = never.ini\n"),
        ("etc/4.ini", "[watcher:w]\ncmd = four\nargs = four\n"),
        ("etc/conf.d/b.ini", "[watcher:w]\nargs = b\nuid = b\ngid = b\n"),
        ("etc/conf.d/a.ini", "[watcher:w]\nuid = a\n"),
        ("etc/conf.d/.hidden.ini", "nonsense"),
        ("etc/never.ini", "nonsense"),
    ])
    .unwrap();
    let expected = [
        "etc/web.ini",
        "etc/z.ini",
        "etc/4.ini",
        "etc/conf.d/a.ini",
        "etc/conf.d/b.ini",
    ];
    assert_eq!(configuration.files, expected);
    let w = &configuration.watchers[0];
    assert_eq!((w.cmd.as_str(), w.args.as_str()), ("z", "four"));
    assert_eq!((w.uid.as_deref(), w.gid.as_deref()), (Some("a"), Some("b")));
    assert_eq!(configuration.global.warmup_delay, Duration::from_secs(1));
    assert_eq!(
        configuration.warnings.len(),
        1,
        "{:?}",
        configuration.warnings
    );
    let message = configuration.warnings[0].to_string();
    assert!(
        message.contains("\"etc/none*.ini\" does not lead to any configuration"),
        "{message}"
    );
}

#[test]
fn environments_are_merged_in_file_order_by_pattern() {
    let configuration = good(
        "[watcher:worker1]\ncmd = $(circus.env.a) $(circus.env.CAKE)\n[watcher:other]\ncmd = x\n\
         copy_env = true\n[env]\nA = $(circus.env.home)/a\nB = $A$HOME\nC = 1\n\
         [env:worker*]\nPATH = $PATH:/srv/bin\nC = 2\n[env:worker1, x]\nCAKE = $(circus.env.a)\n\
         C = 3 \n",
    );
    let other = configuration.watcher("other").unwrap();
    assert_eq!(
        pairs(&other.environment),
        [("A", "/root/a"), ("B", "/root"), ("C", "1")]
    );
    assert_eq!(other.environment_base, EnvironmentBase::Manager);
    let worker = configuration.watcher("worker1").unwrap();
    let expected = [
        ("A", "/root/a"),
        ("B", "/root"),
        ("C", "3"),
        ("CAKE", "$(circus.env.a)"),
        ("PATH", "/usr/bin:/bin:/srv/bin"),
    ];
    assert_eq!(pairs(&worker.environment), expected);
    assert_eq!(worker.cmd, "/root/a $(circus.env.a)");
    let found: Vec<_> = configuration
        .warnings
        .iter()
        .map(|w| w.message.as_str())
        .collect();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("no watcher matches \"x\""));
    assert!(found[1].contains("variables in CAKE stay"));
}

#[test]
fn variables_of_the_manager_reach_every_typed_value() {
    let w = watcher("numprocesses = $(circus.env.COUNT)\nworking_dir = ((circus.env.home))/x");
    assert_eq!((w.numprocesses, w.working_dir), (4, Some("/root/x".into())));
    assert_eq!(
        watcher("args = $(circus.env.nope) $(circus.wid)").args,
        "$(circus.env.nope) $(circus.wid)"
    );
}

#[test]
fn messages_do_not_show_what_variables_stand_for() {
    let found = error("[watcher:w]\ncmd = x\nnumprocesses = $(circus.env.secret)\n");
    assert!(
        found.contains("$(circus.env.secret)") && !found.contains("hush"),
        "{found}"
    );
}

#[test]
fn readiness_and_what_belongs_to_it_is_read() {
    let read = watcher(
        "ready = TCP 127.0.0.1:80$(circus.wid)\nready_timeout = 5\nready_interval = 0.5\n\
         alive = exec check me\nalive_interval = 4\nalive_failures = 2\nessential = on\n\
         backoff_factor = 1.5\nbackoff_jitter = 0",
    );
    assert_eq!(
        read.ready.probe.map(|probe| probe.to_string()).as_deref(),
        Some("tcp 127.0.0.1:80$(circus.wid)")
    );
    assert_eq!(read.ready.timeout.as_secs(), 5);
    assert_eq!(read.alive.grace.as_secs(), 4);
    assert_eq!(read.alive.failures, 2);
    assert!(read.essential);
    assert_eq!(read.backoff.factor_percent, 150);
    assert_eq!(read.backoff.jitter_percent, 0);
}

#[test]
fn what_is_wrong_about_readiness_is_said_with_its_place() {
    for (line, problem) in [
        ("ready = htp http://x/", "did you mean http?"),
        ("ready = tcp 80", "needs HOST:PORT behind tcp"),
        ("ready_interval = 0", "must be at least 0.1 s"),
        ("alive = uptime 3", "must be tcp HOST:PORT"),
        ("alive_failures = 0", "must be from 1 to 1000: 0"),
        ("backoff_factor = 0.5", "is not a number from 1 to 100"),
        (
            "depends_on = v",
            "names a watcher that does not exist: \"v\"; did you mean w?",
        ),
        ("depends_on = w", "goes in a circle: w -> w"),
    ] {
        let message = error(&format!("[watcher:w]\ncmd = x\n{line}\n"));
        assert!(message.contains(problem), "{line}: {message}");
        assert!(message.contains("line 3 of"), "{line}: {message}");
    }
}

#[test]
fn sockets_that_do_not_exist_are_named() {
    let text = "[socket:web]\nport = 1\n[watcher:w]\ncmd = x $(circus.sockets.WEB) ((circus.sockets.wbe))\n";
    let found = warning(text);
    assert!(found.contains("\"wbe\"; did you mean web?"), "{found}");
}

#[test]
fn the_decimal_umask_of_a_socket_is_kept_and_explained() {
    let text = "[socket:s]\npath = /s\numask = 077\n";
    let SocketAddress::Unix { umask, .. } = good(text).sockets[0].address else {
        panic!("unix")
    };
    assert_eq!(umask, 77);
    let found = warning(text);
    assert!(
        found.contains("077 is the mask 115; for the mask 077 write 63"),
        "{found}"
    );
    assert_eq!(
        warnings("[socket:s]\npath = /s\numask = 007\n"),
        Vec::<String>::new()
    );
}

#[test]
fn watchers_and_sockets_are_sorted_by_name_in_byte_order() {
    let configuration = good("[watcher:b]\ncmd = x\n[watcher:a]\ncmd = x\n[watcher:C]\ncmd = x\n");
    let names: Vec<_> = configuration
        .watchers
        .iter()
        .map(|w| w.name.as_str())
        .collect();
    assert_eq!(names, ["C", "a", "b"]);
}

/// Lines that are nearly right, for texts that reach beyond the grammar.
fn line() -> impl Strategy<Value = String> {
    let keys: Vec<&'static str> = [keys::CIRCUS, keys::WATCHER, keys::SOCKET]
        .concat()
        .iter()
        .map(|key| key.name)
        .collect();
    let section = prop_oneof![
        Just("[circus]".to_owned()),
        Just("[env]".to_owned()),
        Just("[DEFAULT]".to_owned()),
        "\\[(watcher|socket|plugin|env):[a-c* ,]{0,3}\\]",
    ];
    let value = prop_oneof![
        "[ -~\u{e9}]{0,12}",
        "-?[0-9]{1,22}(\\.[0-9])?",
        Just("$(circus.env.home)".to_owned()),
        Just("true".to_owned()),
        Just("FileStream".to_owned()),
    ];
    let option = (proptest::sample::select(keys), value)
        .prop_map(|(key, value)| format!("{} = {value}", key.replace('*', "core")));
    prop_oneof![1 => section, 4 => option, 1 => "[ -~]{0,20}"]
}

#[test]
fn ten_thousand_watchers_with_an_environment_each_are_read_in_linear_time() {
    let mut text = "[socket:s]\nport = 1\n".to_owned();
    for at in 0..10_000 {
        text.push_str(&format!(
            "[watcher:W{at}]\ncmd = x $(circus.sockets.s)\n[env:W{at}]\nB = {at}\n"
        ));
    }
    let configuration = good(&text);
    let of = |name: &str| {
        pairs(&configuration.watcher(name).unwrap().environment)[0]
            .1
            .to_owned()
    };
    assert_eq!(
        (of("w77"), of("W9999")),
        ("77".to_owned(), "9999".to_owned())
    );
    assert_eq!(configuration.warnings, []);
}

proptest! {
    #[test]
    fn any_configuration_is_loaded_or_refused_and_places_are_inside(
        lines in proptest::collection::vec(line(), 0..40)
    ) {
        let (loaded, count) = (load_files(&[("web.ini", &lines.join("\n"))]), lines.len().max(1));
        let diagnostics = match loaded {
            Ok(configuration) => configuration.warnings,
            Err(error) => {
                prop_assert!(!error.errors.is_empty());
                [error.errors, error.warnings].concat()
            }
        };
        for diagnostic in diagnostics {
            prop_assert!((1..=count).contains(&(diagnostic.location.line as usize)));
            prop_assert!(!diagnostic.message.contains('\n'), "{}", diagnostic.message);
        }
    }
}
