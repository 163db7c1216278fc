//! Members that die, hang and come back.
