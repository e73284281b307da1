//! What kernel and manager cost when nothing happens: memory without and with a thousand idle
//! children, and the size of the kernel's program file.

use std::rc::Rc;
use std::time::Duration;

use kingpole_tests::measure::{Effort, print_bounded, pss_kib, threads};
use kingpole_tests::{Kernel, Manager, binaries, puppet, wait};

fn main() {
    let children = Effort::asked_for().pick(1000, 100);
    kernel(children);
    manager(children);
}

fn kernel(children: u64) {
    let size = std::fs::metadata(binaries::kernel())
        .expect("the binary")
        .len();
    print_bounded("footprint/binary", size as f64 / 1e6, 1.5, "MB");

    let kernel = Kernel::start();
    let mut client = kernel.client();
    let pid = client.welcome().pid;
    let idle = pss_kib(pid).expect("its memory");
    print_bounded("footprint/idle PSS", idle as f64 / 1024.0, 1.0, "MiB");
    for n in 0..children {
        let name = format!("idle.{n}");
        let spec = puppet::program(&name, &["/bin/sleep", "100000"]);
        client.spawn(&name, spec).expect("a child");
    }
    let full = pss_kib(pid).expect("its memory");
    let each = full.saturating_sub(idle) as f64 / children as f64;
    print_bounded(
        &format!("footprint/PSS, {children} children"),
        each,
        2.0,
        "KiB each",
    );
    println!(
        "footprint/threads             {}",
        threads(pid).expect("its threads")
    );
}

fn manager(children: u64) {
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let with = |processes: u64| {
        let text = format!("[watcher:idle]\ncmd = /bin/sleep 100000\nnumprocesses = {processes}\n");
        let configuration = scratch.write("idle.ini", &text);
        let manager = Manager::start(&scratch, &configuration);
        if processes > 0 {
            wait::until("all processes run", || manager.pids("idle"));
        }
        // What a burst of starts leaves behind goes back when it is over.
        std::thread::sleep(Duration::from_secs(3));
        let pid = manager.process().handle().pid();
        pss_kib(pid).expect("its memory")
    };
    // One that starts them, and one that finds them: the second is what runs for long.
    let idle = with(0);
    print_bounded(
        "footprint/manager, idle PSS",
        idle as f64 / 1024.0,
        8.0,
        "MiB",
    );
    for what in ["starts", "adopts"] {
        let full = with(children);
        let each = full.saturating_sub(idle) as f64 / children as f64;
        print_bounded(
            &format!("footprint/manager that {what} {children}"),
            each,
            4.0,
            "KiB each",
        );
    }
}
