//! What the kernel costs when nothing happens: memory without and with a thousand idle children,
//! and the size of its program file.

use kingpole_tests::measure::{Effort, print_bounded, pss_kib, threads};
use kingpole_tests::{Kernel, binaries, puppet};

fn main() {
    let effort = Effort::asked_for();
    let children = effort.pick(1000, 100);
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
