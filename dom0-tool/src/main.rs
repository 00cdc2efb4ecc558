//! lull.
fn main() {}
