//! The guest image: the kernel, and nothing else.
#![no_std]
#![no_main]

// Names nothing of it, but links it: the kernel's entry point and handlers are found by the linker script.
use efibed_guest as _;
