//! Which pages this process has: /proc/self/maps.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use super::space::Rights;

/// A stretch of this process's memory that can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub range: Range<u64>,
    pub rights: Rights,
    /// A file's path, a name in brackets, or nothing.
    pub name: String,
}

impl Mapping {
    /// Whether its pages can be copied: not where a device is mapped, or what the system shows of itself.
    pub fn is_memory(&self) -> bool {
        !(self.name.starts_with("anon_inode:") || self.name.starts_with("/dev/") || self.name.starts_with("[vvar"))
    }
}

/// The file, kept open: where this process is confined it cannot be opened any more. It belongs to the process that opened
/// it.
static MAPS: Mutex<Option<(u32, File)>> = Mutex::new(None);

/// Opens it, before this process confines itself.
pub fn open() -> io::Result<()> {
    with_file(|_| Ok(()))
}

/// Where this process has the first page of a file; None: nowhere.
pub fn first_address_of(path: &str) -> io::Result<Option<u64>> {
    let of_it = read()?.into_iter().filter(|mapping| mapping.name == path);
    Ok(of_it.map(|mapping| mapping.range.start).min())
}

/// What there is now, by address.
pub fn read() -> io::Result<Vec<Mapping>> {
    let mut text = Vec::new();
    with_file(|file| {
        let mut part = [0; 16 << 10];
        // By position, since threads share the file.
        while let read @ 1.. = file.read_at(&mut part, text.len() as u64)? {
            text.extend_from_slice(&part[..read]);
        }
        Ok(())
    })?;
    Ok(String::from_utf8_lossy(&text).lines().filter_map(parse).collect())
}

fn with_file<T>(run: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
    let mut slot = MAPS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let process = std::process::id();
    if slot.as_ref().is_none_or(|(owner, _)| *owner != process) {
        let before = slot.replace((process, File::open("/proc/self/maps")?));
        // A child process may have closed all that its parent had open, and have given the number to another file.
        std::mem::forget(before);
    }
    match slot.as_ref() {
        Some((_, file)) => run(file),
        None => Err(io::ErrorKind::NotFound.into()),
    }
}

/// One line, as proc(5) has it: range, rights, offset, device, inode, name. None: it cannot be read from.
fn parse(line: &str) -> Option<Mapping> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    let rights = words.next()?.as_bytes();
    if rights.first() != Some(&b'r') {
        return None;
    }
    let has = |index: usize, letter: u8| rights.get(index) == Some(&letter);
    Some(Mapping {
        range: address(start)?..address(end)?,
        rights: Rights { write: has(1, b'w'), execute: has(2, b'x') },
        name: words.skip(3).collect::<Vec<_>>().join(" "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_the_manual_has_them() {
        let line = "55d0c0000000-55d0c0002000 r-xp 00001000 fe:01 131 /usr/bin/a name";
        let expected = Mapping {
            range: 0x55d0_c000_0000..0x55d0_c000_2000,
            rights: Rights { write: false, execute: true },
            name: "/usr/bin/a name".into(),
        };
        assert_eq!(parse(line), Some(expected));
        let anonymous = parse("7f0000000000-7f0000001000 rw-p 00000000 00:00 0 ").unwrap();
        assert!(anonymous.rights == Rights::WRITE && anonymous.name.is_empty() && anonymous.is_memory());
        assert_eq!(parse("7f0000000000-7f0000001000 ---p 00000000 00:00 0"), None);
        assert_eq!(parse("what"), None);
        assert!(!parse("7f0000000000-7f0000001000 r--p 00000000 00:00 0 [vvar]").unwrap().is_memory());
    }

    #[test]
    fn this_process_has_its_own_text() {
        let address = this_process_has_its_own_text as *const () as u64;
        let mappings = read().unwrap();
        let mapping = mappings.iter().find(|mapping| mapping.range.contains(&address)).unwrap();
        assert_eq!(mapping.rights, Rights { write: false, execute: true });
    }
}
