//! RedisObserver and HttpObserver.

use std::time::Duration;

use super::options::{OptionError, PluginOptions};
use super::statsd::StatsdSettings;
use crate::config::http_address::HttpAddress;
use crate::config::ini::quoted;

/// RedisObserver's options beside those of statsd.
pub(super) const REDIS_OPTIONS: [&str; 4] =
    ["redis_url", "timeout", "restart_on_timeout", "loop_rate"];

/// HttpObserver's options beside those of statsd.
pub(super) const HTTP_OPTIONS: [&str; 4] =
    ["check_url", "timeout", "restart_on_error", "loop_rate"];

/// A server as `redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisServer {
    /// A name or an address.
    pub host: String,
    /// Of the server.
    pub port: u16,
    /// Words behind AUTH; none without a password.
    pub authentication: Vec<String>,
    /// What is selected.
    pub database: Option<String>,
}

impl RedisServer {
    fn parse(url: &str) -> Option<Self> {
        let rest = url.strip_prefix("redis://")?;
        let (place, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, place) = match place.rsplit_once('@') {
            Some((user, place)) => (user, place),
            None => ("", place),
        };
        let (name, password) = user.split_once(':').unwrap_or((user, ""));
        let authentication = [name, password].into_iter().filter(|part| !part.is_empty());
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (place, 6379),
        };
        let database = path.split('?').next().filter(|text| !text.is_empty());
        if database.is_some_and(|text| text.parse::<u32>().is_err()) {
            return None;
        }
        Some(Self {
            host: if host.is_empty() { "localhost" } else { host }.to_owned(),
            port,
            authentication: authentication.map(str::to_owned).collect(),
            database: database.map(str::to_owned),
        })
    }
}

/// RedisObserver.
#[derive(Clone, Debug, PartialEq)]
pub struct RedisObserverSettings {
    /// Where metrics go.
    pub statsd: StatsdSettings,
    /// Who is asked.
    pub server: RedisServer,
    /// How long it may take.
    pub timeout: Duration,
    /// Who is restarted when it does not answer.
    pub restart: Option<String>,
    /// How often it is asked.
    pub period: Duration,
}

impl RedisObserverSettings {
    /// Reads them.
    ///
    /// # Errors
    /// The first that makes no sense.
    pub fn read(options: &PluginOptions) -> Result<Self, OptionError> {
        let url = options.text("redis_url", "redis://localhost:6379/0");
        let wrong = || {
            let url = quoted(url);
            let reason = format!("is not redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]: {url}");
            OptionError::new("redis_url", reason)
        };
        Ok(Self {
            statsd: StatsdSettings::read(options, "redis_observer")?,
            server: RedisServer::parse(url).ok_or_else(wrong)?,
            timeout: options.seconds("timeout", 5.0)?,
            restart: options.get("restart_on_timeout").map(str::to_owned),
            period: options.seconds("loop_rate", 60.0)?,
        })
    }
}

/// What `check_url` says.
fn read_address(url: &str) -> Result<HttpAddress, OptionError> {
    if url.starts_with("https://") {
        // A TLS library would be most of this program, for a look at one's own machine.
        let reason = "is https, which is not spoken here; let it fetch the http address behind the \
                      proxy that speaks TLS, or let a program of your own (curl) do it in a watcher";
        return Err(OptionError::new("check_url", reason));
    }
    let wrong = || {
        let reason = format!("is no http:// address: {}", quoted(url));
        OptionError::new("check_url", reason)
    };
    HttpAddress::parse(url).ok_or_else(wrong)
}

/// HttpObserver.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpObserverSettings {
    /// Where metrics go.
    pub statsd: StatsdSettings,
    /// What is fetched, as it is written.
    pub url: String,
    /// The same, taken apart.
    pub address: HttpAddress,
    /// How long it may take.
    pub timeout: Duration,
    /// Who is restarted when that fails.
    pub restart: Option<String>,
    /// How often it is fetched.
    pub period: Duration,
}

impl HttpObserverSettings {
    /// Reads them.
    ///
    /// # Errors
    /// The first that makes no sense.
    pub fn read(options: &PluginOptions) -> Result<Self, OptionError> {
        let url = options.text("check_url", "http://localhost/");
        Ok(Self {
            statsd: StatsdSettings::read(options, "http_observer")?,
            url: url.to_owned(),
            address: read_address(url)?,
            timeout: options.seconds("timeout", 10.0)?,
            restart: options.get("restart_on_error").map(str::to_owned),
            period: options.seconds("loop_rate", 60.0)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        let server = RedisServer::parse("redis://localhost:6379/0").unwrap();
        assert_eq!((server.host.as_str(), server.port), ("localhost", 6379));
        assert_eq!(server.database.as_deref(), Some("0"));
        let server = RedisServer::parse("redis://:secret@10.0.0.1").unwrap();
        assert_eq!(server.authentication, ["secret"]);
        assert_eq!((server.host.as_str(), server.port), ("10.0.0.1", 6379));
        assert_eq!(server.database, None);
        for wrong in ["http://x", "redis://x:y", "redis://x/db"] {
            assert_eq!(RedisServer::parse(wrong), None, "{wrong}");
        }
    }
}
