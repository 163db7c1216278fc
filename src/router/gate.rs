//! Between hosts, in front of each copy of the registry: a connection is let in when its other end
//! proves that it knows the cluster's credential, and is a pipe from then on. Used by `registry`;
//! knows nothing of stacks.
//!
//! Each side sends bytes that were never used before, and answers for both with a keyed hash: what
//! was heard on the wire opens nothing later, and a stranger behind a known address is not spoken to.
//! What follows is not encrypted.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::forward::{self, Dial};
use crate::model::registry::Credential;

/// Both sides have proved themselves by then.
const PROOF_MAX: Duration = Duration::from_secs(3);

/// Strangers at the gate at a time; more wait in the kernel's queue.
const STRANGERS_MAX: usize = 256;

/// After a connection that could not be accepted.
const AGAIN: Duration = Duration::from_millis(25);

const NONCE: usize = 32;
const PROOF: usize = 32;

/// Looks the present credential up.
pub(super) type Known = Arc<dyn Fn() -> Option<Credential> + Send + Sync>;

/// Who proves it. A proof of one side is none of the other's.
#[derive(Clone, Copy)]
enum Side {
    Caller,
    Keeper,
}

fn keyed(credential: &Credential, side: Side, keeper: &[u8], caller: &[u8]) -> Hmac<Sha256> {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(credential.bytes()).expect("a key of any length will do");
    mac.update(match side {
        Side::Caller => b"viking registry caller",
        Side::Keeper => b"viking registry keeper",
    });
    mac.update(keeper);
    mac.update(caller);
    mac
}

fn refused() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "not of this cluster")
}

fn nonce() -> io::Result<[u8; NONCE]> {
    let mut nonce = [0; NONCE];
    getrandom::fill(&mut nonce).map_err(io::Error::other)?;
    Ok(nonce)
}

/// The keeper's part: the way to what is behind the gate. Who has proved himself is answered only if
/// there is one, so that he can try elsewhere.
async fn admit(
    stream: &mut TcpStream,
    credential: &Credential,
    dial: &Dial,
) -> io::Result<TcpStream> {
    let mine = nonce()?;
    stream.write_all(&mine).await?;
    let (mut theirs, mut proof) = ([0; NONCE], [0; PROOF]);
    stream.read_exact(&mut theirs).await?;
    stream.read_exact(&mut proof).await?;
    keyed(credential, Side::Caller, &mine, &theirs)
        .verify_slice(&proof)
        .map_err(|_| refused())?;
    let Some(inside) = dial().await else {
        return Err(io::ErrorKind::ConnectionRefused.into());
    };
    let answer = keyed(credential, Side::Keeper, &mine, &theirs).finalize();
    stream.write_all(&answer.into_bytes()).await?;
    Ok(inside)
}

/// The caller's part.
///
/// # Errors
/// When the other end does not prove itself, or not in time.
pub(super) async fn enter(stream: &mut TcpStream, credential: &Credential) -> io::Result<()> {
    let enter = async {
        let mut theirs = [0; NONCE];
        stream.read_exact(&mut theirs).await?;
        let mine = nonce()?;
        let proof = keyed(credential, Side::Caller, &theirs, &mine).finalize();
        let mut said = mine.to_vec();
        said.extend_from_slice(&proof.into_bytes());
        stream.write_all(&said).await?;
        let mut answer = [0; PROOF];
        stream.read_exact(&mut answer).await?;
        keyed(credential, Side::Keeper, &theirs, &mine)
            .verify_slice(&answer)
            .map_err(|_| refused())
    };
    tokio::time::timeout(PROOF_MAX, enter)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Lets callers in who know the credential, to what `dial` reaches at once, until shutdown.
pub(super) async fn run(
    listener: TcpListener,
    known: Known,
    dial: Dial,
    shutdown: CancellationToken,
) {
    let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
    loop {
        let Ok(place) = Arc::clone(&strangers).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((mut caller, from)) = accepted else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        let (known, dial, stop) = (Arc::clone(&known), Arc::clone(&dial), shutdown.clone());
        tokio::spawn(async move {
            let let_in = async {
                let credential = known().ok_or_else(refused)?;
                let admitted = admit(&mut caller, &credential, &dial);
                let admitted = tokio::time::timeout(PROOF_MAX, admitted);
                admitted
                    .await
                    .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            };
            let mut inside = match let_in.await {
                Ok(inside) => inside,
                Err(error) => {
                    tracing::debug!(%from, "not let in to the registry: {error}");
                    return;
                }
            };
            // No longer a stranger.
            drop(place);
            caller.set_nodelay(true).ok();
            forward::watch_over(&caller);
            // Either side hanging up is the normal end.
            let pipe = copy_bidirectional(&mut caller, &mut inside);
            tokio::select! {
                () = stop.cancelled() => {}
                _ = pipe => {}
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    use tokio::io::{AsyncRead, AsyncWrite};

    fn credential(byte: u8) -> Credential {
        Credential::new([byte; 32])
    }

    /// A gate in front of something that says `inside` and then what it is told.
    async fn gate(known: Option<Credential>) -> SocketAddr {
        let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let inside = inner.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut peer, _)) = inner.accept().await {
                tokio::spawn(async move {
                    peer.write_all(b"inside").await.ok();
                    let (mut read, mut write) = peer.split();
                    tokio::io::copy(&mut read, &mut write).await.ok();
                });
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let known: Known = Arc::new(move || known.clone());
        let dial = forward::to(Arc::new(move || vec![inside]));
        tokio::spawn(run(listener, known, dial, CancellationToken::new()));
        address
    }

    async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Vec<u8> {
        stream.write_all(b" echo").await.unwrap();
        let mut heard = vec![0; 11];
        stream.read_exact(&mut heard).await.unwrap();
        heard
    }

    #[tokio::test]
    async fn who_knows_the_credential_is_let_in() {
        let mut stream = TcpStream::connect(gate(Some(credential(1))).await)
            .await
            .unwrap();
        enter(&mut stream, &credential(1)).await.unwrap();
        assert_eq!(exchange(&mut stream).await, b"inside echo");
    }

    #[tokio::test]
    async fn who_does_not_hears_nothing_of_the_registry() {
        for known in [Some(credential(1)), None] {
            let address = gate(known).await;
            let mut stream = TcpStream::connect(address).await.unwrap();
            enter(&mut stream, &credential(2)).await.unwrap_err();
            // Plain HTTP gets a nonce at most.
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = [b"GET /v2/ HTTP/1.1\r\n\r\n".as_slice(), &[0; 64]].concat();
            stream.write_all(&request).await.ok();
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).await.ok();
            assert!(heard.len() <= NONCE, "{heard:?}");
        }
    }

    #[tokio::test]
    async fn what_was_heard_once_opens_nothing_later() {
        let address = gate(Some(credential(1))).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        let (mut theirs, mine) = ([0; NONCE], [7; NONCE]);
        first.read_exact(&mut theirs).await.unwrap();
        let proof = keyed(&credential(1), Side::Caller, &theirs, &mine).finalize();
        let said = [mine.as_slice(), &proof.into_bytes()].concat();
        first.write_all(&said).await.unwrap();
        let mut answer = [0; PROOF];
        first.read_exact(&mut answer).await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        second.read_exact(&mut theirs).await.unwrap();
        second.write_all(&said).await.unwrap();
        second.read_exact(&mut answer).await.unwrap_err();
    }

    #[tokio::test]
    async fn a_stranger_behind_a_known_address_is_not_spoken_to() {
        let stranger = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = stranger.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut peer, _) = stranger.accept().await.unwrap();
            peer.write_all(&[0; NONCE]).await.unwrap();
            let mut said = [0; NONCE + PROOF];
            peer.read_exact(&mut said).await.unwrap();
            // The caller's own proof sent back is none.
            peer.write_all(&said[NONCE..]).await.unwrap();
        });
        let mut stream = TcpStream::connect(address).await.unwrap();
        enter(&mut stream, &credential(1)).await.unwrap_err();
    }
}
