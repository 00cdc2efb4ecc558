//! The migration stream: what the bytes are ([`records`]), in what order they
//! wait ([`queue`]), and where they go ([`sink`]), by which [`pipe`].

pub mod pipe;
pub mod queue;
pub mod records;
pub mod sink;
