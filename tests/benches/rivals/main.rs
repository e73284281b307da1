//! Ourselves beside other supervisors, each with the same child, interleaved in one run; prints tables in Markdown for
//! `docs/performance.md`.
//!
//! `cargo bench --bench rivals` measures whoever is installed: Circus, Papa and Supervisor are fetched from PyPI into environments
//! of their own, PM2 from npm into a directory below `target`, and runit, s6 and daemontools are Debian's
//! (`apt-get install runit s6 daemontools`). `KINGPOLE_BENCH=quick` takes below two minutes and is for seeing that it works.
//! `KINGPOLE_RIVALS=kingpole,runit` measures these only, `KINGPOLE_FIGURES=output,deaths` only these figures of
//! `output`, `ticks`, `deaths`, `starts`, `memory`, `status`, `many`.

mod bell;
mod circus;
mod holding;
mod kingpole;
mod lives;
mod output;
mod pm2;
mod rival;
mod scanners;
mod supervisor;
mod table;
mod ticks;
mod watching;

use kingpole_tests::measure::Effort;
use rival::Rival;

fn main() {
    let effort = Effort::asked_for();
    let listed = |variable: &str, name: &str| match std::env::var(variable) {
        Ok(list) => list.split(',').any(|it| it.eq_ignore_ascii_case(name)),
        Err(_) => true,
    };
    let all: Vec<Box<dyn Rival>> = vec![
        Box::new(kingpole::Kingpole),
        Box::new(circus::Circus::default()),
        Box::new(circus::Papa::default()),
        Box::new(supervisor::Supervisor::default()),
        Box::new(scanners::RUNIT),
        Box::new(scanners::S6),
        Box::new(scanners::DAEMONTOOLS),
        Box::new(pm2::Pm2::default()),
    ];
    let mut rivals = Vec::new();
    for mut rival in all {
        if !listed("KINGPOLE_RIVALS", rival.name()) {
            continue;
        }
        match rival.find() {
            Ok(()) => rivals.push(rival),
            Err(why) => println!("left out: {}: {why}", rival.name()),
        }
    }
    let names: Vec<&str> = rivals.iter().map(|rival| rival.name()).collect();
    let wanted = |figure: &str| listed("KINGPOLE_FIGURES", figure);
    let mut rows = Vec::new();
    if wanted("output") {
        rows.extend(output::measure(&rivals, effort));
    }
    if wanted("ticks") {
        rows.push(ticks::measure(&rivals, effort));
    }
    if wanted("deaths") {
        rows.extend(lives::deaths(&rivals, effort));
    }
    if wanted("starts") {
        rows.extend(lives::starts(&rivals, effort));
    }
    if wanted("memory") {
        rows.extend(holding::memory(&rivals, effort));
    }
    if wanted("status") {
        rows.push(holding::status(&rivals, effort));
    }
    table::print(&rows, &names);
    if wanted("many") && names.contains(&"kingpole") {
        holding::many(effort);
    }
}
