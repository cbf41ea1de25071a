//! What loggers write before a message: a level, a time, a host.

/// Where a message that starts with `marker` starts in a line of a log. Text that only mentions it is none.
pub(super) fn find_message(line: &str, marker: &str) -> Option<usize> {
    let start = find_marker(line, marker)?;
    is_log_prefix(&line[..start]).then_some(start)
}

/// Where a marker is in a line, whatever stands before it. Lines are many and short: to look for its first character is
/// faster than to prepare a search for all of it.
pub(super) fn find_marker(line: &str, marker: &str) -> Option<usize> {
    let first = marker.chars().next()?;
    let (start, _) = line.match_indices(first).find(|(start, _)| line[*start..].starts_with(marker))?;
    Some(start)
}

/// `[    0.000000]`, `[Wed Nov 22 13:51:00 2023]`, `<6>`, the `>` of a quoted mail, `... host kernel:` of syslog and
/// journalctl, `kern  :info  :` of `dmesg -x`, the time of `dmesg --time-format iso`, `FILE:LINE:` of grep.
fn is_log_prefix(before: &str) -> bool {
    let before = before.trim_end();
    before.is_empty()
        || before.ends_with([']', '>'])
        || before.strip_suffix(':').is_some_and(ends_with_source)
        || before.split(' ').next_back().is_some_and(is_iso_time)
}

fn ends_with_source(before: &str) -> bool {
    let word = before.trim_end().rsplit([' ', ':']).next().unwrap_or_default();
    let is_line_number = !word.is_empty() && word.bytes().all(|digit| digit.is_ascii_digit());
    word == "kernel" || LEVELS.contains(&word) || is_line_number
}

fn is_iso_time(word: &str) -> bool {
    word.split_once('T').is_some_and(|(date, time)| {
        let is_date = date.len() == 10 && date.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
        is_date && time.len() >= 8 && time.bytes().all(|byte| byte.is_ascii_digit() || b":.,+-Z".contains(&byte))
    })
}

/// The kernel's levels, as `dmesg -x` writes them.
const LEVELS: [&str; 8] = ["emerg", "alert", "crit", "err", "warn", "notice", "info", "debug"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_loggers_write_is_a_prefix() {
        for prefix in [
            "",
            "  ",
            "<6>",
            "<6>[    0.000000] ",
            "[    0.000000][    T0] ",
            "[Wed Nov 22 13:51:00 2023] ",
            "Nov 22 13:51:00 host kernel: ",
            "Nov 22 13:51:00 host kernel: [    0.000000] ",
            "2023-11-22T13:51:00+0100 host kernel: ",
            "2023-11-22T13:51:00.123456+01:00 host kernel: ",
            "2023-11-22T13:51:00,123456+01:00 ",
            "kern  :info  : ",
            "kern  :info  : [    0.000000] ",
            "> > [    0.000000] ",
            "boot.log:12:",
        ] {
            assert_eq!(find_message(&format!("{prefix}efi: mem00"), "efi: mem"), Some(prefix.len()), "{prefix:?}");
        }
    }

    #[test]
    fn prose_is_none() {
        for prefix in ["the row ", "systemd: ", "see ", "x2023-11-22T13:51:00 ", "T", "12 "] {
            assert_eq!(find_message(&format!("{prefix}efi: mem00"), "efi: mem"), None, "{prefix:?}");
        }
    }
}
