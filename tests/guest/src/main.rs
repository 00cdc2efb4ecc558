//! The guest model.
fn main() {}
