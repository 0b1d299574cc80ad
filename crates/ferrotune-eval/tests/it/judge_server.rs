//! A scripted server on loopback, and a clock that only sleeping moves.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use ferrotune_eval::judge::{Clock, EndpointOptions, Limits, RetryPolicy};
use serde_json::{Value, json};

/// What the server does with a request.
pub(crate) enum Act {
    /// Answers, with these further header lines.
    Reply { status: u16, headers: String, body: String },
    /// Says nothing, and keeps the connection.
    Stall,
    /// Resets the connection.
    Reset,
    /// Promises this many bytes and sends the body.
    Length { promised: usize, body: String },
}

impl Act {
    /// A chat completion of this text that cost 100 and 10 tokens.
    pub(crate) fn says(text: &str) -> Self {
        Self::Reply { status: 200, headers: String::new(), body: completion(text, "stop") }
    }

    pub(crate) fn status(status: u16, message: &str) -> Self {
        Self::with_header(status, message, "")
    }

    pub(crate) fn with_header(status: u16, message: &str, header: &str) -> Self {
        let headers = if header.is_empty() { String::new() } else { format!("{header}\r\n") };
        Self::Reply { status, headers, body: json!({"error": {"message": message}}).to_string() }
    }
}

pub(crate) fn completion(text: &str, finish: &str) -> String {
    json!({
        "model": "scripted-0613",
        "created": 1_000_000_000,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    })
    .to_string()
}

/// A request as the server saw it.
pub(crate) struct Seen {
    /// The path.
    pub(crate) path: String,
    /// The `Authorization` header.
    pub(crate) authorization: Option<String>,
    pub(crate) body: Value,
    /// How many requests came before it.
    pub(crate) number: usize,
}

impl Seen {
    /// Everything that was said to the judge.
    pub(crate) fn prompt(&self) -> String {
        self.body["messages"].to_string()
    }
}

type Script = dyn Fn(&Seen) -> Act + Send + Sync;

struct Shared {
    script: Box<Script>,
    clock: Arc<ManualClock>,
    requests: AtomicUsize,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
    arrivals: Mutex<Vec<Duration>>,
    closed: AtomicBool,
    /// Wakes the stalled connections at the end.
    over: (Mutex<bool>, Condvar),
}

pub(crate) struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Server {
    pub(crate) fn new(script: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            script: Box::new(script),
            clock: Arc::default(),
            requests: AtomicUsize::new(0),
            under_way: AtomicUsize::new(0),
            most_under_way: AtomicUsize::new(0),
            arrivals: Mutex::default(),
            closed: AtomicBool::new(false),
            over: (Mutex::new(false), Condvar::new()),
        });
        let state = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if state.closed.load(Ordering::SeqCst) {
                    break;
                }
                let state = Arc::clone(&state);
                let stream = stream.unwrap();
                thread::spawn(move || state.serve(stream));
            }
        });
        Self { address, shared }
    }

    /// The address with the patience that a busy machine takes, three attempts, one request at a time.
    pub(crate) fn options(&self) -> EndpointOptions {
        EndpointOptions {
            connect_timeout: Duration::from_secs(120),
            request_timeout: Duration::from_secs(120),
            retry: RetryPolicy { attempts: 3, ..RetryPolicy::default() },
            limits: Limits { concurrency: 1, ..Limits::default() },
            ..EndpointOptions::new(format!("http://{}/v1", self.address), "scripted")
        }
    }

    pub(crate) fn clock(&self) -> Arc<ManualClock> {
        Arc::clone(&self.shared.clock)
    }

    /// How many requests came.
    pub(crate) fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// How many were under way at once, at most.
    pub(crate) fn most_under_way(&self) -> usize {
        self.shared.most_under_way.load(Ordering::SeqCst)
    }

    /// When requests came, by the manual clock.
    pub(crate) fn arrivals(&self) -> Vec<Duration> {
        self.shared.arrivals.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        *self.shared.over.0.lock().unwrap() = true;
        self.shared.over.1.notify_all();
        // Wakes the listener, which then sees that it is closed.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) {
        // Byte by byte, so that nothing is taken from the system that was not asked for, see `Act::Reset`.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if stream.read_exact(&mut byte).is_err() {
                return;
            }
            head.extend(byte);
        }
        let head = String::from_utf8(head).unwrap();
        let (first, fields) = head.split_once("\r\n").unwrap();
        let head: BTreeMap<String, String> = fields
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
            .collect();
        let length: usize = head["content-length"].parse().unwrap();
        let mut body = vec![b'}'; length];
        stream.read_exact(&mut body[..length - 1]).unwrap();

        let under_way = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_under_way.fetch_max(under_way, Ordering::SeqCst);
        self.arrivals.lock().unwrap().push(self.clock.now());
        let seen = Seen {
            path: first.split(' ').nth(1).unwrap_or_default().to_owned(),
            authorization: head.get("authorization").cloned(),
            body: serde_json::from_slice(&body).unwrap(),
            number: self.requests.fetch_add(1, Ordering::SeqCst),
        };
        let act = (self.script)(&seen);
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        self.act(act, stream);
    }

    fn act(&self, act: Act, mut stream: TcpStream) {
        if !matches!(act, Act::Reset) {
            let mut last = [0];
            stream.read_exact(&mut last).unwrap();
            assert_eq!(last, *b"}");
        }
        let mut send = |status: u16, headers: &str, length: usize, body: &str| {
            let text = format!(
                "HTTP/1.1 {status} Scripted\r\ncontent-type: application/json\r\nconnection: close\r\n{headers}\
                 content-length: {length}\r\n\r\n{body}"
            );
            // A client that gave up is part of some scripts.
            let _ = stream.write_all(text.as_bytes());
        };
        match act {
            Act::Reply { status, headers, body } => send(status, &headers, body.len(), &body),
            Act::Length { promised, body } => send(200, "", promised, &body),
            // The last byte of the request is still unread, and closing then resets the connection.
            Act::Reset => {}
            Act::Stall => {
                let mut over = self.over.0.lock().unwrap();
                while !*over {
                    over = self.over.1.wait(over).unwrap();
                }
            }
        }
    }
}

/// Sleeping moves it at once, and nothing else does.
#[derive(Debug, Default)]
pub(crate) struct ManualClock(Mutex<Duration>);

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        *self.0.lock().unwrap()
    }

    /// 2001-09-09 01:46:40 UTC, the billionth second, when the clock was made.
    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000) + self.now()
    }

    fn sleep(&self, duration: Duration) {
        *self.0.lock().unwrap() += duration;
    }
}
