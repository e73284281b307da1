//! Promise: a manager that dies in the middle of a hook leaves nothing undecided. What waited for the
//! answer is asked again by the next one, and goes by its answer (P1, P11).

use kingpole_tests::manager::{describe, kingpole};
use kingpole_tests::{Kernel, Manager, Scratch, wait};
use std::rc::Rc;

/// A manager whose watcher has one hook: a program that notes each call, and answers once it is told to.
struct Hooked {
    manager: Manager,
    scratch: Rc<Scratch>,
    hook: &'static str,
    _kernel: Kernel,
}

impl Hooked {
    fn start(hook: &'static str) -> Self {
        let kernel = Kernel::start();
        let scratch = Rc::clone(kernel.scratch());
        let path = |name: &str| scratch.join(name).display().to_string();
        let script = format!(
            "echo $KINGPOLE_HOOK >>{}\nwhile [ ! -s {answer} ]; do sleep 0.05; done\n\
             exit $(cat {answer})\n",
            path("calls"),
            answer = path("answer")
        );
        scratch.write("hook.sh", script);
        let text = format!(
            "[watcher:web]\ncmd = /bin/sleep 100000\nhooks.{hook} = /bin/sh {}\n",
            path("hook.sh")
        );
        let file = scratch.write("stack.ini", text);
        let manager = Manager::start(&scratch, &file);
        Self {
            manager,
            scratch,
            hook,
            _kernel: kernel,
        }
    }

    fn wait_for_calls(&self, count: usize) {
        let wanted = format!("{}\n", self.hook).repeat(count);
        wait::until("the hook is called", || {
            let calls = std::fs::read_to_string(self.scratch.join("calls")).unwrap_or_default();
            match calls == wanted {
                true => Ok(()),
                false => Err(format!("{calls:?}; {}", self.manager.log())),
            }
        });
    }

    /// Kills the manager while it waits for the answer; the next one asks again.
    fn die_in_the_middle(&mut self) {
        self.wait_for_calls(1);
        self.manager.kill();
        self.manager.replace();
        self.manager.wait_ready();
        self.wait_for_calls(2);
    }

    /// Lets everybody who waits have this exit status.
    fn answer(&self, status: u8) {
        let written = self.scratch.write("answer.new", status.to_string());
        std::fs::rename(written, self.scratch.join("answer")).expect("in the same directory");
    }

    fn wait_for_state(&self, wanted: &str) {
        wait::until("the watcher is as it shall be", || {
            let status = self.manager.status()?;
            let watcher = &status["watchers"][0];
            match watcher["state"] == wanted {
                true => Ok(()),
                false => Err(watcher.to_string()),
            }
        });
    }
}

#[test]
fn a_start_that_waited_for_a_hook_is_asked_for_again() {
    let mut hooked = Hooked::start("before_start");
    hooked.die_in_the_middle();
    hooked.wait_for_state("starting");
    hooked.answer(0);
    wait::until("it runs", || hooked.manager.pids("web"));
    hooked.wait_for_calls(2);
}

#[test]
fn a_process_that_waited_for_its_hook_goes_by_the_answer_to_the_next_manager() {
    let mut hooked = Hooked::start("after_spawn");
    hooked.die_in_the_middle();
    hooked.answer(1);
    hooked.wait_for_state("stopped");
    let status = hooked.manager.status().expect("it answers");
    assert_eq!(status["watchers"][0]["actual"], 0, "{status}");
    hooked.wait_for_calls(2);
}

#[test]
fn a_stop_that_waited_for_a_hook_is_carried_through() {
    let mut hooked = Hooked::start("before_stop");
    wait::until("it runs", || hooked.manager.pids("web"));
    let stop = kingpole(&hooked.scratch, &["stop", "web"]);
    assert!(stop.status.success(), "{}", describe(&stop));
    hooked.die_in_the_middle();
    hooked.wait_for_state("stopping");
    hooked.answer(0);
    hooked.wait_for_state("stopped");
    hooked.wait_for_calls(2);
}
