//! Promise: Circus's plugins that are built in do with real processes what Circus's own did, and say it to statsd in
//! the same words.

use kingpole_tests::manager::{describe, kingpole};
use kingpole_tests::{Kernel, Manager, Scratch, wait};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

struct Running {
    manager: Manager,
    scratch: Rc<Scratch>,
    metrics: UdpSocket,
    heard: Vec<String>,
    _kernel: Kernel,
}

impl Running {
    /// `METRICS` in the configuration becomes the options of a statsd that the test listens to.
    fn start(configuration: impl FnOnce(&Scratch) -> String) -> Self {
        let metrics = UdpSocket::bind("127.0.0.1:0").expect("a port");
        metrics.set_nonblocking(true).expect("a socket");
        let port = metrics.local_addr().expect("bound").port();
        let kernel = Kernel::start();
        let scratch = Rc::clone(kernel.scratch());
        let options = format!("host = 127.0.0.1\nport = {port}\n");
        let text = configuration(&scratch).replace("METRICS", &options);
        let file = scratch.write("plugins.ini", text);
        let manager = Manager::start(&scratch, &file);
        Self {
            manager,
            scratch,
            metrics,
            heard: Vec::new(),
            _kernel: kernel,
        }
    }

    #[track_caller]
    fn pids(&self, watcher: &str) -> Vec<i64> {
        wait::until("all processes run", || self.manager.pids(watcher))
    }

    /// Waits for a metric that begins so, and answers it.
    #[track_caller]
    fn hear(&mut self, beginning: &str) -> String {
        let Self {
            metrics,
            heard,
            manager,
            ..
        } = self;
        wait::until(beginning, || {
            let mut buffer = [0; 1000];
            while let Ok(count) = metrics.recv(&mut buffer) {
                heard.push(String::from_utf8_lossy(&buffer[..count]).into_owned());
            }
            let found = heard.iter().find(|one| one.starts_with(beginning));
            found
                .cloned()
                .ok_or_else(|| format!("{heard:?}\n{}", manager.log()))
        })
    }

    /// Waits until none of these processes runs any more, and others do.
    #[track_caller]
    fn replaced(&self, watcher: &str, before: &[i64]) -> Vec<i64> {
        wait::until("other processes run", || {
            let now = self.manager.pids(watcher)?;
            match now.iter().any(|pid| before.contains(pid)) {
                true => Err(format!("{now:?}\n{}", self.manager.log())),
                false => Ok(now),
            }
        })
    }
}

#[test]
fn resource_watcher_restarts_who_uses_too_much_and_nobody_else() {
    let mut it = Running::start(|_| {
        "[watcher:fat]\ncmd = /bin/sleep 100000\n[watcher:slim]\ncmd = /bin/sleep 100000\n\
         [plugin:fat]\nuse = circus.plugins.resource_watcher.ResourceWatcher\nwatcher = fat\n\
         max_mem = 10K\nmax_count = 1\nloop_rate = 0.1\nMETRICS\n\
         [plugin:slim]\nuse = circus.plugins.resource_watcher.ResourceWatcher\nwatcher = slim\n\
         max_mem = 1G\nmax_count = 1\nloop_rate = 0.1\n"
            .to_owned()
    });
    let slim = it.pids("slim");
    let fat = it.pids("fat");
    it.hear("circus.app.watcher._resource_watcher.fat.over_memory:1|c");
    it.hear("circus.app.watcher._resource_watcher.fat.restarting:1|c");
    it.replaced("fat", &fat);
    assert_eq!(it.pids("slim"), slim);
    let log = it.manager.log();
    assert!(
        log.contains("resource_watcher: watcher \"fat\" is beyond its bounds"),
        "{log}"
    );
}

/// An address of its own below 127.0.0.0/8, all of which is this machine's, so that no port is anybody else's.
fn own_address() -> Ipv4Addr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 100, high, low.max(2))
}

struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn watchdog_stops_who_falls_silent_and_leaves_who_beats() {
    let ip = own_address();
    let it = Running::start(|_| {
        format!(
            "[watcher:beating]\ncmd = /bin/sleep 100000\nnumprocesses = 2\n\
             [watcher:other]\ncmd = /bin/sleep 100000\n\
             [plugin:dog]\nuse = circus.plugins.watchdog.WatchDog\nip = {ip}\nport = 21664\n\
             loop_rate = 0.5\nmax_count = 8\nwatchers_regex = ^beating$\n"
        )
    });
    let before = it.pids("beating");
    let other = it.pids("other");
    let (beating, silent) = (before[0], before[1]);
    let stop = AtomicBool::new(false);
    let now = std::thread::scope(|scope| {
        // Also when the test fails.
        let _stop = StopAtEnd(&stop);
        scope.spawn(|| {
            let heart = UdpSocket::bind("127.0.0.1:0").expect("a port");
            while !stop.load(Ordering::Relaxed) {
                // Circus's form; the time is not looked at. Whoever listens only later hears the next one.
                let _ = heart.send_to(format!("{beating};1.5").as_bytes(), (ip, 21664));
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        wait::until("the silent one is replaced", || {
            let now = it.manager.pids("beating")?;
            match now.contains(&silent) {
                true => Err(it.manager.log()),
                false => Ok(now),
            }
        })
    });
    assert!(now.contains(&beating), "{now:?}");
    assert_eq!(it.pids("other"), other);
    let log = it.manager.log();
    assert!(
        log.contains(&format!(
            "watchdog: pid {silent} of watcher \"beating\" is silent"
        )),
        "{log}"
    );
}

#[test]
fn command_reloader_restarts_a_watcher_whose_program_is_replaced() {
    let script = |version: u32| format!("#!/bin/sh\n# {version}\nexec /bin/sleep 100000\n");
    let it = Running::start(|scratch| {
        let program = scratch.program("served", script(1).as_bytes());
        format!(
            "[watcher:served]\ncmd = {} --option\n[watcher:other]\ncmd = /bin/sleep 100000\n\
             [plugin:reloader]\nuse = circus.plugins.command_reloader.CommandReloader\nloop_rate = 0.1\n",
            program.display()
        )
    });
    let (before, other) = (it.pids("served"), it.pids("other"));
    // Its first look may come after the first replacement; the next one it sees for sure.
    let mut version = 1;
    wait::until("another process runs", || {
        version += 1;
        let next = it
            .scratch
            .program(&format!("served-{version}"), script(version).as_bytes());
        std::fs::rename(&next, it.scratch.join("served")).map_err(|error| error.to_string())?;
        let now = it.manager.pids("served")?;
        match now == before {
            true => Err(it.manager.log()),
            false => Ok(()),
        }
    });
    assert_eq!(it.pids("other"), other);
    let log = it.manager.log();
    assert!(
        log.contains("command_reloader: the program of watcher \"served\" is another"),
        "{log}"
    );
}

#[test]
fn full_stats_tells_what_each_watcher_uses() {
    let mut it = Running::start(|_| {
        "[watcher:busy]\ncmd = /bin/sleep 100000\nnumprocesses = 3\n[watcher:none]\ncmd = /bin/sleep 1\n\
         autostart = false\n\
         [plugin:stats]\nuse = circus.plugins.statsd.FullStats\napplication_name = shop\nloop_rate = 0.2\nMETRICS\n"
            .to_owned()
    });
    it.pids("busy");
    it.hear("circus.shop.watcher._stats.busy.watchers_num:3|g");
    for bucket in ["cpu_max", "cpu_sum", "mem_pct_max", "mem_pct_sum"] {
        let told = it.hear(&format!("circus.shop.watcher._stats.busy.{bucket}:"));
        assert!(told.ends_with("|g"), "{told}");
    }
    let bytes = |told: String| -> u64 {
        let (_, value) = told.rsplit_once(':').expect("a value");
        value.trim_end_matches("|g").parse().expect("bytes")
    };
    let max = bytes(it.hear("circus.shop.watcher._stats.busy.mem_max:"));
    let sum = bytes(it.hear("circus.shop.watcher._stats.busy.mem_sum:"));
    // Resident memory of a sleeping program: more than a page, less than some megabytes.
    assert!((4096..50 << 20).contains(&max) && sum >= max, "{max} {sum}");
    it.hear("circus.shop.watcher._stats.none.watchers_num:0|g");
}

/// A web server that answers with this status, whatever it is asked.
fn web_server() -> (u16, Arc<AtomicU16>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let status = Arc::new(AtomicU16::new(200));
    let now = Arc::clone(&status);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let status = now.load(Ordering::Relaxed);
            let _ = write!(
                stream,
                "HTTP/1.0 {status} so\r\nContent-Length: 2\r\n\r\nok"
            );
        }
    });
    (port, status)
}

#[test]
fn http_observer_times_answers_and_restarts_who_answers_with_errors() {
    let (port, status) = web_server();
    let mut it = Running::start(|_| {
        format!(
            "[watcher:web]\ncmd = /bin/sleep 100000\n\
             [plugin:web]\nuse = circus.plugins.http_observer.HttpObserver\n\
             check_url = http://127.0.0.1:{port}/health?x=1\nloop_rate = 0.1\nrestart_on_error = web\nMETRICS\n\
             [plugin:off]\nuse = circus.plugins.http_observer.HttpObserver\nactive = no\n\
             check_url = http://127.0.0.1:1/\nloop_rate = 0.1\nrestart_on_error = web\n"
        )
    });
    let timed = it.hear("circus.http_observer.watcher.http_stats.request_time:");
    assert!(timed.ends_with("|ms"), "{timed}");
    let before = it.pids("web");
    status.store(503, Ordering::Relaxed);
    it.hear("circus.http_observer.watcher.http_stats.error:1|c");
    it.hear("circus.http_observer.watcher.http_stats.error.503:1|c");
    it.hear("circus.http_observer.watcher.http_stats.restart_on_error:1|c");
    it.replaced("web", &before);
    status.store(200, Ordering::Relaxed);
    let log = it.manager.log();
    assert!(
        log.contains("answers 503; restarting watcher \"web\""),
        "{log}"
    );
    // One that is not active asks nobody.
    assert!(!log.contains("127.0.0.1:1/"), "{log}");
}

#[test]
fn an_option_that_makes_no_sense_is_refused_before_anything_starts() {
    let it = Running::start(|_| "[watcher:one]\ncmd = /bin/sleep 100000\n".to_owned());
    let before = it.pids("one");
    let text = "[watcher:one]\ncmd = /bin/sleep 200000\n\
                [plugin:web]\nuse = circus.plugins.http_observer.HttpObserver\ncheck_url = https://x/\n";
    it.scratch.write("plugins.ini", text);
    for arguments in [
        ["check", "plugins.ini"].as_slice(),
        &["reloadconfig", "--wait"],
    ] {
        let refused = kingpole(&it.scratch, arguments);
        let said = describe(&refused);
        assert!(!refused.status.success(), "{said}");
        assert!(
            said.contains("plugin \"web\": check_url is https"),
            "{said}"
        );
        let place = ["plugins.ini:5:", "(line 5 of /"];
        assert!(place.iter().any(|place| said.contains(place)), "{said}");
    }
    assert_eq!(it.pids("one"), before);
}
