//! Scan, estimate, decide.
#![no_std]
