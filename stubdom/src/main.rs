//! The stub.
fn main() {}
