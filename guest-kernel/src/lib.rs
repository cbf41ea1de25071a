//! Placeholder of the skeleton commit.
#![no_std]
