//! The rig's hands inside dom0.
fn main() {}
