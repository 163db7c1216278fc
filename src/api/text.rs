//! URLs that are fit to be shown. Pure.

/// A remote without user, password and query, whatever its form.
pub(crate) fn public_url(remote: &str) -> String {
    let Ok(mut url) = url::Url::parse(remote) else {
        return remote.to_owned();
    };
    if url.cannot_be_a_base() {
        return remote.to_owned();
    }
    // The user of an ssh remote is part of its address and no secret.
    let named = url.scheme() != "ssh" && !url.username().is_empty();
    if named && url.set_username("").is_err() {
        return url.scheme().to_owned();
    }
    if url.password().is_some() && url.set_password(None).is_err() {
        return url.scheme().to_owned();
    }
    url.set_query(None);
    url.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_ever_shown() {
        let secret = "https://anna:hunter2@git.example/a.git?token=abc";
        assert_eq!(public_url(secret), "https://git.example/a.git");
        assert_eq!(public_url("ssh://git@h/a.git"), "ssh://git@h/a.git");
        assert_eq!(public_url("git@h:a.git"), "git@h:a.git");
        assert_eq!(public_url("/srv/a"), "/srv/a");
        assert_eq!(public_url("file:///srv/a"), "file:///srv/a");
    }
}
