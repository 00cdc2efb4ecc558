//! The link between dom0 and the stub (layout, rings, messages).
