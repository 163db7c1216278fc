//! The flags about etcd, checked before anything starts: whole, of one scheme, and not in the clear
//! over a network unless somebody says so. Called by `hosting`; connects to nobody.

use url::{Host, Url};

use super::args::EtcdArgs;
use super::failure::Failure;
use crate::config::Etcd;

/// Where etcd is, if the store is to be there.
pub(super) fn etcd(args: &EtcdArgs) -> Result<Option<Etcd>, Failure> {
    // `VIKING_ETCD=` is how an empty setting looks.
    let given = args.etcd.iter().map(|text| text.trim());
    let given: Vec<&str> = given.filter(|text| !text.is_empty()).collect();
    if given.is_empty() {
        return match stray(args) {
            Some(flag) => {
                let hint = "add --etcd https://host:2379, or leave it out";
                Err(Failure::usage(format!("{flag} without --etcd"), hint))
            }
            None => Ok(None),
        };
    }
    let mut endpoints = Vec::new();
    for text in given {
        endpoints.push(endpoint(text, args.insecure_etcd)?);
    }
    let tls = |url: &String| url.starts_with("https:");
    if endpoints.iter().any(tls) && !endpoints.iter().all(tls) {
        return Err(Failure::usage(
            "some addresses of etcd are http and some https",
            "its members speak the same: give all of --etcd with the same scheme",
        ));
    }
    check_pairs(args)?;
    check_tls(args, endpoints.iter().any(tls))?;
    Ok(Some(Etcd {
        endpoints,
        ca: args.etcd_ca.clone(),
        identity: args.etcd_cert.clone().zip(args.etcd_key.clone()),
        user: args.etcd_user.clone().zip(args.etcd_password_file.clone()),
    }))
}

/// A flag that means nothing without etcd.
fn stray(args: &EtcdArgs) -> Option<&'static str> {
    let given = [
        (args.etcd_ca.is_some(), "--etcd-ca"),
        (args.etcd_cert.is_some(), "--etcd-cert"),
        (args.etcd_key.is_some(), "--etcd-key"),
        (args.etcd_user.is_some(), "--etcd-user"),
        (args.etcd_password_file.is_some(), "--etcd-password-file"),
        (args.insecure_etcd, "--insecure-etcd"),
    ];
    given
        .iter()
        .find(|(given, _)| *given)
        .map(|(_, flag)| *flag)
}

/// One address, in the form the store takes. What was typed may hold a password, so it is not
/// repeated until it is known to hold none.
fn endpoint(text: &str, insecure: bool) -> Result<String, Failure> {
    let form = "give --etcd as https://host:2379, several with commas between them";
    let bad = |what: &str| Err(Failure::usage(format!("an address of etcd {what}"), form));
    let Ok(url) = Url::parse(text) else {
        return bad("that is none");
    };
    if !url.username().is_empty() || url.password().is_some() {
        let hint = "give --etcd-user and --etcd-password-file";
        return Err(Failure::usage("an address of etcd holds a user", hint));
    }
    let (true, Some(host)) = (matches!(url.scheme(), "http" | "https"), url.host()) else {
        return bad("that is neither http:// nor https://");
    };
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return bad("goes on after its port");
    }
    let local = match &host {
        Host::Domain(name) => *name == "localhost",
        Host::Ipv4(ip) => ip.is_loopback(),
        Host::Ipv6(ip) => ip.is_loopback(),
    };
    let port = url.port_or_known_default().unwrap_or_default();
    let address = format!("{}://{host}:{port}", url.scheme());
    if url.scheme() == "http" && !local && !insecure {
        return Err(Failure::usage(
            format!("{address}: whoever is between here and there could read and write everything"),
            "give an https:// address, --etcd-ca, --etcd-cert and --etcd-key; or, in a network \
             where nobody else is, --insecure-etcd",
        ));
    }
    Ok(address)
}

/// What means nothing without the other. Not left to clap, which does not see what comes from the
/// file of settings.
fn check_pairs(args: &EtcdArgs) -> Result<(), Failure> {
    let cert = ("--etcd-cert", args.etcd_cert.is_some());
    let key = ("--etcd-key", args.etcd_key.is_some());
    let user = ("--etcd-user", args.etcd_user.is_some());
    let password = ("--etcd-password-file", args.etcd_password_file.is_some());
    for ((one, given), (other, too)) in [(cert, key), (user, password)] {
        if given != too {
            let (here, missing) = if given { (one, other) } else { (other, one) };
            return Err(Failure::usage(
                format!("{here} without {missing}"),
                format!("give {missing} as well"),
            ));
        }
    }
    Ok(())
}

fn check_tls(args: &EtcdArgs, tls: bool) -> Result<(), Failure> {
    if tls && args.etcd_ca.is_none() {
        return Err(Failure::usage(
            "https to etcd without --etcd-ca",
            "name the certificate of the authority that signed etcd's: --etcd-ca FILE",
        ));
    }
    if !tls && (args.etcd_ca.is_some() || args.etcd_cert.is_some()) {
        return Err(Failure::usage(
            "certificates for etcd, and an http:// address",
            "give --etcd as https://host:2379, or leave --etcd-ca and --etcd-cert out",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::failure::USAGE;

    fn args(etcd: &[&str]) -> EtcdArgs {
        EtcdArgs {
            etcd: etcd.iter().map(|&url| url.into()).collect(),
            ..EtcdArgs::default()
        }
    }

    #[test]
    fn without_addresses_there_is_no_etcd() {
        assert_eq!(etcd(&args(&[])).unwrap(), None);
        assert_eq!(etcd(&args(&[""])).unwrap(), None);
        let stray = EtcdArgs {
            insecure_etcd: true,
            ..args(&[])
        };
        assert_eq!(etcd(&stray).unwrap_err().code, USAGE);
    }

    #[test]
    fn http_to_another_machine_has_to_be_asked_for() {
        for near in [
            "http://127.0.0.1:2379",
            "http://localhost:1",
            "http://[::1]:2",
        ] {
            let etcd = etcd(&args(&[near])).unwrap().unwrap();
            assert_eq!(etcd.endpoints, [near]);
        }
        let far = args(&["http://127.0.0.1:2379", "http://192.0.2.1:2379"]);
        let failure = etcd(&far).unwrap_err();
        assert!(failure.code == USAGE && failure.hint.contains("--insecure-etcd"));
        let asked = EtcdArgs {
            insecure_etcd: true,
            ..far
        };
        assert!(etcd(&asked).is_ok());
    }

    #[test]
    fn https_needs_an_authority_and_http_takes_none() {
        let tls = args(&["https://etcd.example:2379"]);
        assert!(etcd(&tls).unwrap_err().hint.contains("--etcd-ca"));
        let whole = EtcdArgs {
            etcd_ca: Some("ca.pem".into()),
            ..tls
        };
        assert!(etcd(&whole).is_ok());
        let plain = EtcdArgs {
            etcd: vec!["http://127.0.0.1:1".into()],
            ..whole.clone()
        };
        assert_eq!(etcd(&plain).unwrap_err().code, USAGE);
        let mixed = EtcdArgs {
            etcd: vec!["https://a:1".into(), "http://127.0.0.1:1".into()],
            ..whole
        };
        assert_eq!(etcd(&mixed).unwrap_err().code, USAGE);
    }

    #[test]
    fn half_a_pair_is_refused() {
        let halves = [
            EtcdArgs {
                etcd_key: Some("k".into()),
                ..args(&["http://127.0.0.1:1"])
            },
            EtcdArgs {
                etcd_user: Some("u".into()),
                ..args(&["http://127.0.0.1:1"])
            },
        ];
        for half in halves {
            assert!(etcd(&half).unwrap_err().text().contains("without"));
        }
    }

    #[test]
    fn what_is_no_address_is_refused_and_a_password_in_it_not_repeated() {
        for bad in [
            "a:2379",
            "2379",
            "ftp://a:1",
            "http://127.0.0.1:1/v3",
            "http://127.0.0.1:1?x",
            "https://anna:s3cret@a:2379",
        ] {
            let failure = etcd(&args(&[bad])).unwrap_err();
            assert_eq!(failure.code, USAGE, "{bad}");
            assert!(!failure.text().contains("s3cret"), "{bad}");
        }
    }
}
