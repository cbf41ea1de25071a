//! Which pages this process has: /proc/self/maps.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use vmm_sys_util::ioctl::{_IOC_READ, _IOC_WRITE, ioctl_expr, ioctl_with_mut_ref};

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

/// What there is now at an address.
///
/// Linux 6.11 and later answer for one address (PROCMAP_QUERY, `linux/fs.h`). Of an older one the whole list is read, which
/// takes hundreds of microseconds in a large process.
pub fn at(address: u64) -> io::Result<Option<Mapping>> {
    let mut name = [0_u8; MOST_NAME];
    let mut query = ProcmapQuery {
        size: size_of::<ProcmapQuery>() as u64,
        address,
        name_bytes: name.len() as u32,
        name_at: name.as_mut_ptr().expose_provenance() as u64,
        ..Default::default()
    };
    // SAFETY: the kernel writes to the structure and, as much as it says is there, to the name. Both live for the call.
    let asked = with_file(|file| match unsafe { ioctl_with_mut_ref(file, PROCMAP_QUERY, &mut query) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    });
    match asked {
        Ok(()) => Ok(query.mapping(&name)),
        // Nothing is there.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        // It knows no such question, or has no room for such a name.
        Err(_) => Ok(read()?.into_iter().find(|mapping| mapping.range.contains(&address))),
    }
}

/// The request for one mapping, as an ioctl of `/proc/self/maps`.
pub const PROCMAP_QUERY: u64 = ioctl_expr(_IOC_READ | _IOC_WRITE, b'f' as u32, 17, size_of::<ProcmapQuery>() as u32);

/// Longer than the names of most files.
const MOST_NAME: usize = 1024;

/// `struct procmap_query`.
#[derive(Default)]
#[repr(C)]
struct ProcmapQuery {
    size: u64,
    flags: u64,
    address: u64,
    start: u64,
    end: u64,
    rights: u64,
    page_bytes: u64,
    offset: u64,
    inode: u64,
    device: [u32; 2],
    /// In: room. Out: with the zero at the end; 0: it has none.
    name_bytes: u32,
    build_id_bytes: u32,
    name_at: u64,
    build_id_at: u64,
}

impl ProcmapQuery {
    /// None: it cannot be read from.
    fn mapping(&self, name: &[u8]) -> Option<Mapping> {
        // PROCMAP_QUERY_VMA_READABLE, and so on.
        const READ: u64 = 1;
        const WRITE: u64 = 2;
        const EXECUTE: u64 = 4;
        let name = name.get(..(self.name_bytes as usize).saturating_sub(1)).unwrap_or_default();
        let has = |right: u64| self.rights & right != 0;
        has(READ).then(|| Mapping {
            range: self.start..self.end,
            rights: Rights { write: has(WRITE), execute: has(EXECUTE) },
            name: String::from_utf8_lossy(name).into_owned(),
        })
    }
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
    fn one_address_is_told_as_the_whole_list_tells_it() {
        let here = 0_u64;
        let addresses =
            [one_address_is_told_as_the_whole_list_tells_it as *const () as u64, (&raw const here) as u64, 0, 8 << 60];
        for address in addresses {
            let listed = read().unwrap().into_iter().find(|mapping| mapping.range.contains(&address));
            assert_eq!(at(address).unwrap(), listed, "{address:#x}");
        }
        // Mappings of devices, of the system, and without a name.
        for mapping in read().unwrap() {
            let told = at(mapping.range.start).unwrap();
            // Other tests map and unmap meanwhile, and grow what there is.
            if let Some(told) = told.filter(|told| told.range == mapping.range) {
                assert_eq!((told.name, told.rights), (mapping.name, mapping.rights));
            }
        }
    }

    #[test]
    fn this_process_has_its_own_text() {
        let address = this_process_has_its_own_text as *const () as u64;
        let mappings = read().unwrap();
        let mapping = mappings.iter().find(|mapping| mapping.range.contains(&address)).unwrap();
        assert_eq!(mapping.rights, Rights { write: false, execute: true });
    }
}
