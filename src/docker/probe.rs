//! Health checks over the network: a TCP connection or an HTTP GET to a container's own address.
//! Called by the bollard engine; commands are run by the engine itself. Never follows redirects,
//! never reads a body, never goes through a proxy.

use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::time::Duration;

use reqwest::{Client, StatusCode, redirect};
use tokio::net::TcpStream;

use super::Container;
use crate::model::spec::{HealthCheck, Proto};

/// How the check introduces itself in people's access logs.
const USER_AGENT: &str = "viking-health";
/// What it asks for: the address is an accident, and some servers refuse one as host name.
const HOST: &str = "localhost";

/// Where a check dials, or why it cannot.
pub fn target(
    container: &Container,
    check: &HealthCheck,
    ip: Option<IpAddr>,
) -> Result<SocketAddr, String> {
    let own = || container.networks.values().find_map(|ip| *ip);
    let ip = ip
        .or_else(own)
        .ok_or("the container has no address; is it running?")?;
    let port = match check {
        HealthCheck::Tcp { port } => Some(*port),
        HealthCheck::Http { port, .. } => port.or_else(|| first_tcp(container)),
        HealthCheck::Cmd { .. } => None,
    };
    let port = port.ok_or("the health check has no port")?;
    Ok(SocketAddr::new(ip, port))
}

fn first_tcp(container: &Container) -> Option<u16> {
    let mut published = container.published.iter();
    published
        .find(|binding| binding.proto == Proto::Tcp)
        .map(|binding| binding.port)
}

/// Whether something accepts connections at `target`.
pub async fn tcp(target: SocketAddr, timeout: Duration) -> Result<(), String> {
    match tokio::time::timeout(timeout, TcpStream::connect(target)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("tcp {target}: {error}")),
        Err(_) => Err(format!("tcp {target}: no answer within {timeout:?}")),
    }
}

/// Whether a GET of `path` answers with `status`, or any 2xx or 3xx when absent.
pub async fn http(
    target: SocketAddr,
    path: &str,
    status: Option<u16>,
    timeout: Duration,
) -> Result<(), String> {
    let url = format!("http://{target}{path}");
    let request = client().get(&url).header("host", HOST).send();
    match tokio::time::timeout(timeout, request).await {
        Ok(Ok(response)) => judge(response.status(), status).map_err(|e| format!("GET {url}: {e}")),
        Ok(Err(error)) => Err(format!("GET {url}: {}", innermost(&error))),
        Err(_) => Err(format!("GET {url}: no answer within {timeout:?}")),
    }
}

fn judge(found: StatusCode, wanted: Option<u16>) -> Result<(), String> {
    let good = match wanted {
        Some(wanted) => found.as_u16() == wanted,
        None => found.is_success() || found.is_redirection(),
    };
    let wanted = wanted.map_or_else(|| "2xx or 3xx".to_owned(), |status| status.to_string());
    if good {
        return Ok(());
    }
    Err(format!("status {}, wanted {wanted}", found.as_u16()))
}

/// The last cause: "connection refused" says more than "error sending request".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// One client for all checks; connections are not kept, a check must see a fresh one accepted.
fn client() -> &'static Client {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    CLIENT.get_or_init(|| {
        Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .user_agent(USER_AGENT)
            .pool_max_idle_per_host(0)
            .build()
            .expect("a client without TLS and proxies has nothing that can fail")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const SECOND: Duration = Duration::from_secs(1);

    async fn server(answer: &'static str) -> (SocketAddr, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..read]).to_ascii_lowercase()
        });
        (address, task)
    }

    #[tokio::test]
    async fn a_redirect_is_good_and_not_followed() {
        let (address, task) =
            server("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\n\r\n").await;
        assert_eq!(http(address, "/health", None, SECOND).await, Ok(()));
        let request = task.await.unwrap();
        assert!(request.starts_with("get /health http/1.1"), "{request}");
        assert!(request.contains("host: localhost"), "{request}");
        assert!(request.contains("user-agent: viking-health"), "{request}");
    }

    #[tokio::test]
    async fn only_the_wanted_status_counts_when_one_is_given() {
        let (address, _task) = server("HTTP/1.1 200 OK\r\ncontent-length: 9999999\r\n\r\n").await;
        let failed = http(address, "/", Some(204), SECOND).await.unwrap_err();
        assert!(failed.ends_with("status 200, wanted 204"), "{failed}");
    }

    #[tokio::test]
    async fn a_refused_connection_is_told_in_words() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        for failed in [
            tcp(address, SECOND).await.unwrap_err(),
            http(address, "/", None, SECOND).await.unwrap_err(),
        ] {
            assert!(failed.to_lowercase().contains("refused"), "{failed}");
        }
    }
}
