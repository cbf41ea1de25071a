//! A debugger on mapping code: the side that lives with the guest.
//!
//! Who speaks gdb's protocol may be another process: the guest's is confined, and what it sends must not reach gdb as it is
//! (gdb carries out requests of its target for files). So the two sides exchange a few plain messages.
//!
//! | file | holds |
//! | --- | --- |
//! | `agent` | halts mapping code, and does what it is told until it goes on |
//! | `core` | an ELF core of the guest |
//! | `monitor` | answers to gdb's `monitor` |
//! | `seen` | what is told of a halted process |
//! | `wire` | the messages |

mod agent;
mod core;
mod monitor;
mod seen;
mod wire;

pub use agent::Agent;
pub use core::{Core, CoreTaker};
pub use wire::{Event, Going, Order, Registers, Said, Wire};
