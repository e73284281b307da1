//! Promise: whatever is killed or upgraded, kernel, guard or manager, in whatever order: the processes
//! are the same ones in the end, and their logs have every line once and in order.
//!
//! `KINGPOLE_WHOLE_STORM_ROUNDS` (16) and `KINGPOLE_STORM_SEED`; a failing run prints the command
//! that repeats it. `KINGPOLE_WHOLE_STORM_ROUNDS=150` takes about a minute.

use kingpole_tests::manager::{self, Manager};
use kingpole_tests::puppet::{Stage, Strings};
use kingpole_tests::rotated::{content, parts};
use kingpole_tests::storm::{Dice, Killer};
use kingpole_tests::{Kernel, Scratch, binaries, lines, wait};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;

const WRITERS: usize = 3;

fn number_from(variable: &str, default: u64) -> u64 {
    let text = std::env::var(variable).ok();
    text.map_or(default, |text| text.parse().expect("a number"))
}

struct Writer {
    tag: String,
    log: PathBuf,
    strings: Strings,
}

/// `kingpole upgrade ...`, not waited for.
fn upgrading(scratch: &Scratch, arguments: &[&str]) -> Child {
    Command::new(binaries::kingpole())
        .arg("upgrade")
        .args(arguments)
        .arg("--runtime-dir")
        .arg(scratch.runtime_dir())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("kingpole runs")
}

#[test]
fn a_storm_of_kills_and_upgrades_of_all_three_changes_no_process_and_no_log() {
    let rounds = number_from("KINGPOLE_WHOLE_STORM_ROUNDS", 16);
    let seed = number_from("KINGPOLE_STORM_SEED", 1);
    eprintln!(
        "repeat: KINGPOLE_STORM_SEED={seed} KINGPOLE_WHOLE_STORM_ROUNDS={rounds} cargo test -p \
         kingpole-tests --test whole_storm"
    );
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let stages: Vec<Stage> = (0..WRITERS).map(|_| Stage::new(&scratch)).collect();
    let logs: Vec<PathBuf> = (0..WRITERS)
        .map(|n| scratch.join(format!("w{n}.log")))
        .collect();
    let text: String = stages
        .iter()
        .zip(&logs)
        .enumerate()
        .map(|(n, (stage, log))| {
            format!(
                "[watcher:w{n}]\ncmd = {} \"{}\"\nstdout_stream.class = FileStream\n\
                 stdout_stream.filename = {}\nstdout_stream.max_bytes = 60000\n\
                 stdout_stream.backup_count = 10000\n\n",
                binaries::puppet().display(),
                stage.command(),
                log.display()
            )
        })
        .collect();
    let configuration = scratch.write("stack.ini", text);
    let mut manager = Manager::start(&scratch, &configuration);
    let mut writers: Vec<Writer> = Vec::new();
    for (stage, log) in stages.iter().zip(&logs) {
        let mut strings = stage.accept().unwrap();
        let tag = format!("p{}", strings.report()["pid"]);
        strings.ask(&format!("background lines out {tag} 0 0 1000"));
        writers.push(Writer {
            tag,
            log: log.clone(),
            strings,
        });
    }
    let before = pids(&manager);

    let mut dice = Dice::new(seed);
    let mut killer = Killer::new(&kernel, seed ^ 0xbeef);
    let (mut managers, mut upgrades) = (0, 0);
    let program = binaries::kernel().to_str().unwrap();
    for _ in 0..rounds {
        let mut going = None;
        match dice.below(6) {
            0 => {
                // It may find the kernel gone and say so; the next one does not.
                let mut upgrade = upgrading(&scratch, &["--kernel", program]);
                upgrade.wait().expect("it ends");
                upgrades += 1;
            }
            1 => killer.kill_guard(),
            2 => {
                manager.replace();
                managers += 1;
            }
            _ => {
                going = Some(upgrading(&scratch, &["--manager"]));
                upgrades += 1;
            }
        }
        killer.pause(150_000);
        // In the middle of whatever is going on.
        if killer.chance(2) {
            killer.kill_kernel();
        }
        if going.is_some() && killer.chance(3) {
            manager.replace();
            managers += 1;
        }
        if let Some(mut going) = going {
            going.wait().expect("it ends");
        }
        manager.wait_ready();
    }
    let kernels = killer.kernels;
    eprintln!(
        "{kernels} kernels, {} guards, {managers} managers, {upgrades} upgrades",
        killer.guards
    );
    assert!(kernels > 0 && managers > 0 && upgrades > 0);

    assert_eq!(pids(&manager), before, "no process was replaced");
    for writer in &mut writers {
        let count = writer.strings.ask("enough")[writer.tag.as_str()]
            .as_u64()
            .unwrap();
        wait::until("all lines are in the log", || {
            let found = lines::check(&writer.tag, &content(&writer.log), 0)?;
            match found == count {
                true => Ok(()),
                false => Err(format!("{found} of {count} lines of {}", writer.tag)),
            }
        });
        assert!(!parts(&writer.log).is_empty());
    }
}

/// Of all watchers, once they are whole.
#[track_caller]
fn pids(manager: &Manager) -> Vec<i64> {
    wait::until("all are active", || {
        let status = manager.status()?;
        let all = (0..WRITERS).map(|n| manager::pids(&status, &format!("w{n}")));
        let all = all.collect::<Result<Vec<_>, String>>()?;
        Ok::<_, String>(all.into_iter().flatten().collect())
    })
}
