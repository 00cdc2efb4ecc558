//! The migration stream on its way: in what order its bytes wait ([`queue`]), where they
//! go ([`sink`]), and by which [`pipe`].

pub mod pipe;
pub mod queue;
pub mod sink;
