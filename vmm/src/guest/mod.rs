//! What is booted: our guest image, the memory it owns, the tables and registers it starts with, and the batches of
//! commands it carries out.
//!
//! | file | holds |
//! | --- | --- |
//! | `image` | the image's bytes and what its header says |
//! | `layout` | every fixed address and size, each with its reason |
//! | `placement` | where in physical memory the guest can live without touching the memory map under test |
//! | `kernel` | the guest's own ring-0 part in memory: made once, and kept from run to run |
//! | `case` | what one run lays beside it, before there is a machine |
//! | `memory` | that memory, seen from the host |
//! | `boot_tables` | the page tables the guest starts on, built by the host |
//! | `descriptor_tables` | GDT, IDT and TSS |
//! | `session` | a booted guest: batches of commands, and what happens while they run |
//! | `mailbox` | what host and guest share |
//! | `end` | why a guest ended before its batch was done |
//! | `process` | ring 3, where mapping code runs |
//! | `stretch` | sizes, and stretches of addresses |
//! | `state` | the registers that its kernel relies on, and whether they are as they were set |

mod boot_tables;
mod case;
mod descriptor_tables;
mod end;
mod image;
mod kernel;
pub mod layout;
mod mailbox;
mod memory;
mod placement;
pub mod process;
mod session;
mod state;
mod stretch;

pub use boot_tables::{BootTables, OutOfPages, flags};
pub use case::{Case, LoadError, Strides};
pub use end::{Crash, End};
pub use image::{Image, ImageError};
pub use kernel::Kernel;
pub use mailbox::{Mail, SweepPart};
pub use memory::OwnMemory;
pub use placement::{NoRoom, Placement, Sizes};
pub use session::{BackedPage, BootError, Guest, GuestEvents, MappedTables, Next, NoEvents, Pace, command};
pub use state::Altered;

/// Bytes of a page.
pub const PAGE_BYTES: u64 = 4096;
