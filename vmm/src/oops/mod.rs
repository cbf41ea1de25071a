//! A page fault in a log, explained: what was accessed, whose it is, what was missing, who is to blame, and the same again in a
//! guest.
//!
//! | file | holds |
//! | --- | --- |
//! | `fault` | a page fault as a log tells it |
//! | `instruction` | the instruction that made the access |
//! | `read/` | reading one: Linux, Xen, EDK II, FreeBSD |
//! | `place` | whose an address is |
//! | `scene` | whether firmware is in it, in which service, before or after the switch |
//! | `verdict` | who is to blame: a table of patterns |
//! | `replay` | the same access in a guest |
//! | `account` | all of it together |
//! | `words`, `json` | how a person and a program read that |
//! | `page` | where it is on the map, in a browser |
//!
//! What a log does not tell is said, and not guessed.

mod account;
mod fault;
mod instruction;
mod json;
mod page;
mod place;
mod read;
mod replay;
mod scene;
mod verdict;
mod words;

pub use account::Account;
pub use json::to_json;
pub use page::to_html;
pub use replay::{Outcome, Replay, Replayed};
pub use words::text;
