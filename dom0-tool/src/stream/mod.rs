//! The migration stream: what the bytes are ([`records`]), in what order they
//! wait ([`queue`]), and where they go ([`sink`]).

pub mod queue;
pub mod records;
pub mod sink;
