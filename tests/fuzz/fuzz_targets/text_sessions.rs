//! Whatever several people do at the prompt, beside a manager that speaks frames: nothing is released
//! that nobody acknowledged, nothing is stolen, and everybody comes back to a prompt. The bytes are
//! read as a list of operations (`kingpole_kernel::step::simulation::text_sessions`).
#![no_main]

use kingpole_kernel::step::simulation::text_sessions;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| text_sessions::play(input));
