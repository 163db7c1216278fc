//! Certificates, users and passwords.
