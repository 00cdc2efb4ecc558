//! Xen's migration stream: its [`records`], and the rules for replacing one blob of a
//! guest's state by another ([`hvm_context`]).

pub mod hvm_context;
pub mod records;
