//! The step that sends a mail.

use std::io::{self, Read as _};
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use batchwright::ItemError;
use batchwright::clock::{Clock as _, StopToken, SystemClock};
use batchwright::error::ErrorKind;
use batchwright::scope::StepScope;
use batchwright::step::{Flow, Tasklet, TaskletCall};
use lettre::message::header::ContentType;
use lettre::message::{Attachment, Mailbox, MultiPart, SinglePart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::transport::smtp::response::Response;
use lettre::{Message, SmtpTransport, Transport};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::key::{Keys, Problem, Text, duration};
use crate::kind::{BuildContext, ItemKind, KindSchema, Make};
use crate::sent;
use crate::template::Template;
use crate::transport::url_with_values;

/// Maximum size of all attachments without `attachments_bytes_max`.
const ATTACHMENTS_BYTES_MAX: u64 = 25 * 1024 * 1024;

/// How many times the time for a command a whole mail can take.
const COMMANDS: u32 = 10;
/// The time between two looks for a stop request.
const STOP_LOOK: Duration = Duration::from_millis(50);

/// The kind `mail`.
pub(crate) struct MailKind;

/// Sends a mail by SMTP.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MailKeys {
    /// The server, `smtps://USER:PASSWORD@HOST:PORT` (encrypted from the beginning, port 465) or `smtp://…` (port 587).
    server: Text,
    /// Whether an `smtp://` connection must become encrypted (STARTTLS) before anything is sent. Default: true.
    starttls: Option<bool>,
    /// A PEM file with the certificate of an authority that is trusted beside those of the machine.
    certificate: Option<Text>,
    /// The sender, such as `Orders <orders@shop.example>`.
    from: Text,
    /// The recipients.
    to: Vec<Text>,
    /// Further recipients.
    #[serde(default)]
    cc: Vec<Text>,
    /// Recipients that the others do not see.
    #[serde(default)]
    bcc: Vec<Text>,
    /// The address for answers. Default: the sender.
    reply_to: Option<Text>,
    /// The subject.
    subject: Text,
    /// The text.
    text: Text,
    /// The text as HTML, beside the plain one.
    html: Option<Text>,
    /// Paths of files that are attached.
    #[serde(default)]
    attachments: Vec<Text>,
    /// Maximum size of all attachments together, in bytes. Default: 25 MiB.
    attachments_bytes_max: Option<u64>,
    /// Time after which an unanswered command fails; the mail as a whole fails after ten times as long. Default: `60s`.
    timeout: Option<Text>,
}

impl ItemKind for MailKind {
    fn name(&self) -> &'static str {
        "mail"
    }

    fn schema(&self) -> KindSchema {
        KindSchema::default().tasklet::<MailKeys>().step_restarts(
            "A mail that was not accepted is sent. If it was accepted, and the process was killed or the answer lost before the store knew it, it is sent twice, with the same `Message-ID`.",
        )
    }

    fn tasklet(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<Box<dyn Tasklet>, Problem> {
        let parsed: MailKeys = keys.parse()?;
        if cx.inside_only {
            return Err(keys.problem(BuildContext::sends_outside()));
        }
        if parsed.to.is_empty() {
            return Err(keys.problem_at("to", "`to` has at least one address"));
        }
        let templates = |texts: &[Text]| {
            texts.iter().map(|text| cx.template(text)).collect::<Result<Vec<_>, _>>()
        };
        let template =
            |text: &Option<Text>| text.as_ref().map(|text| cx.template(text)).transpose();
        let attachments = parsed.attachments.iter().map(|path| cx.path(path));
        Ok(Box::new(Mail {
            server: cx.template(&parsed.server)?,
            starttls: parsed.starttls.unwrap_or(true),
            certificate: parsed.certificate.as_ref().map(|path| cx.path(path)).transpose()?,
            from: cx.template(&parsed.from)?,
            to: templates(&parsed.to)?,
            cc: templates(&parsed.cc)?,
            bcc: templates(&parsed.bcc)?,
            reply_to: template(&parsed.reply_to)?,
            subject: cx.template(&parsed.subject)?,
            text: cx.template(&parsed.text)?,
            html: template(&parsed.html)?,
            attachments: attachments.collect::<Result<_, _>>()?,
            bytes_max: parsed.attachments_bytes_max.unwrap_or(ATTACHMENTS_BYTES_MAX),
            timeout: parsed.timeout.as_ref().map_or(Ok(Duration::from_secs(60)), duration)?,
        }))
    }
}

struct Mail {
    server: Template,
    starttls: bool,
    certificate: Option<Make<PathBuf>>,
    from: Template,
    to: Vec<Template>,
    cc: Vec<Template>,
    bcc: Vec<Template>,
    reply_to: Option<Template>,
    subject: Template,
    text: Template,
    html: Option<Template>,
    attachments: Vec<Make<PathBuf>>,
    bytes_max: u64,
    timeout: Duration,
}

impl Tasklet for Mail {
    fn call(&self, call: &mut TaskletCall<'_, '_>) -> Result<Flow, ItemError> {
        let scope = call.scope();
        let (message, transport) = (self.message(scope)?, self.transport(scope)?);
        match self.send(message, transport, scope.stop())? {
            Ok(_) => Ok(Flow::Finished),
            Err(error) if is_timeout(&error) => {
                let what = format!(
                    "cannot send the mail: the server does not answer within {:?}",
                    self.timeout
                );
                Err(ItemError::new(ErrorKind::new("io.mail"), what))
            }
            Err(error) => {
                // An answer that is final today is so tomorrow.
                let kind = if error.is_permanent() { "mail.refused" } else { "io.mail" };
                Err(ItemError::wrap(ErrorKind::new(kind), "cannot send the mail", error))
            }
        }
    }
}

/// Whether the time for an answer was over; a read then ends with `WouldBlock`.
fn is_timeout(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if matches!(kind, Some(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)) {
            return true;
        }
        cause = error.source();
    }
    false
}

impl Mail {
    /// Sends the mail on a thread of its own, so that neither a stop request nor a server that answers slowly for ever is waited
    /// for.
    fn send(
        &self,
        message: Message,
        transport: SmtpTransport,
        stop: &StopToken,
    ) -> Result<Result<Response, lettre::transport::smtp::Error>, ItemError> {
        let (sender, sent) = channel();
        let work = move || drop(sender.send(transport.send(&message)));
        let started = std::thread::Builder::new().name("batchwright mail".to_owned()).spawn(work);
        started.map_err(|error| ItemError::fatal(format!("cannot start a thread: {error}")))?;
        let clock = SystemClock::default();
        let mut end = clock.elapsed() + self.timeout.saturating_mul(COMMANDS);
        let mut is_stopped = false;
        loop {
            match sent.recv_timeout(STOP_LOOK) {
                Ok(result) => return Ok(result),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(ItemError::fatal("cannot send the mail: its thread has ended"));
                }
                // The answer that is expected now tells whether the mail is sent.
                Err(RecvTimeoutError::Timeout) if !is_stopped && stop.is_requested() => {
                    (is_stopped, end) = (true, end.min(clock.elapsed() + self.timeout));
                }
                Err(RecvTimeoutError::Timeout) if is_stopped && clock.elapsed() >= end => {
                    return Err(ItemError::stopped("a stop was requested while a mail was sent"));
                }
                Err(RecvTimeoutError::Timeout) if clock.elapsed() >= end => {
                    let what = format!(
                        "cannot send the mail: it takes longer than {COMMANDS} times {:?}; it may still arrive",
                        self.timeout
                    );
                    return Err(ItemError::new(ErrorKind::new("io.mail"), what));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn message(&self, scope: &StepScope) -> Result<Message, ItemError> {
        let address = |template: &Template| -> Result<Mailbox, ItemError> {
            let text = template.render(scope)?;
            text.parse().map_err(|error| {
                ItemError::fatal(format!("cannot send the mail: `{text}` is no address: {error}"))
            })
        };
        let digits = sent::key(&[sent::identity(scope).as_bytes()]);
        let from = address(&self.from)?;
        let id = format!("<{digits}@{}>", from.email.domain());
        let mut message = Message::builder().from(from).message_id(Some(id));
        for to in &self.to {
            message = message.to(address(to)?);
        }
        for cc in &self.cc {
            message = message.cc(address(cc)?);
        }
        for bcc in &self.bcc {
            message = message.bcc(address(bcc)?);
        }
        if let Some(reply_to) = &self.reply_to {
            message = message.reply_to(address(reply_to)?);
        }
        let subject = self.subject.render(scope)?;
        // A line end would begin another header.
        let message = message.subject(subject.replace(['\r', '\n'], " "));
        let text = SinglePart::plain(self.text.render(scope)?);
        let body = match &self.html {
            None => MultiPart::mixed().singlepart(text),
            Some(html) => {
                let html = SinglePart::html(html.render(scope)?);
                let both = MultiPart::alternative().singlepart(text).singlepart(html);
                MultiPart::mixed().multipart(both)
            }
        };
        let body = self.attach(body, scope)?;
        message
            .multipart(body)
            .map_err(|error| ItemError::fatal(format!("cannot make the mail: {error}")))
    }

    fn attach(&self, mut body: MultiPart, scope: &StepScope) -> Result<MultiPart, ItemError> {
        let mut left = self.bytes_max;
        for path in &self.attachments {
            let path = path(scope)?;
            let failed = |error: io::Error| {
                let what = format!("cannot attach `{}`", path.display());
                ItemError::wrap(ErrorKind::IO, what, error)
            };
            if !std::fs::metadata(&path).map_err(failed)?.is_file() {
                let what = format!("cannot attach `{}`: it is no regular file", path.display());
                return Err(ItemError::fatal(what));
            }
            let mut content = Vec::new();
            let file = std::fs::File::open(&path).map_err(failed)?;
            file.take(left.saturating_add(1)).read_to_end(&mut content).map_err(failed)?;
            left = left.checked_sub(content.len() as u64).ok_or_else(|| {
                ItemError::fatal(format!(
                    "cannot attach `{}`: all attachments together are larger than {} bytes (`attachments_bytes_max`)",
                    path.display(),
                    self.bytes_max
                ))
            })?;
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            let kind = ContentType::parse("application/octet-stream")
                .map_err(|error| ItemError::fatal(format!("cannot make the mail: {error}")))?;
            body = body.singlepart(Attachment::new(name.unwrap_or_default()).body(content, kind));
        }
        Ok(body)
    }

    fn transport(&self, scope: &StepScope) -> Result<SmtpTransport, ItemError> {
        let wrong = |why: String| ItemError::fatal(format!("cannot use the mail server: {why}"));
        let url = url_with_values(&self.server, scope).map_err(wrong)?;
        let host = url.host_str().unwrap_or_default();
        if !matches!(url.scheme(), "smtp" | "smtps") || host.is_empty() {
            return Err(wrong("expected `smtps://HOST` or `smtp://HOST`".to_owned()));
        }
        if !matches!(url.path(), "" | "/") || url.query().is_some() {
            return Err(wrong("its URL has neither a path nor parameters".to_owned()));
        }
        if !url.username().is_empty() && url.password().is_none() {
            return Err(wrong("its URL has a user and no password".to_owned()));
        }
        let is_wrapped = url.scheme() == "smtps";
        let decoded = |text: &str| {
            percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
        };
        let (user, password) = (decoded(url.username()), url.password().map(decoded));
        let is_here = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
        if !is_wrapped && !self.starttls && password.is_some() && !is_here {
            return Err(wrong(format!(
                "a password for `{host}` would be sent unencrypted; use `smtps://`, or `smtp://` with `starttls`"
            )));
        }
        let tls = || -> Result<TlsParameters, ItemError> {
            let mut parameters = TlsParameters::builder(host.trim_matches(['[', ']']).to_owned());
            if let Some(path) = &self.certificate {
                let path = path(scope)?;
                let bytes = std::fs::read(&path).map_err(|error| {
                    ItemError::wrap(
                        ErrorKind::IO,
                        format!("cannot read `{}`", path.display()),
                        error,
                    )
                })?;
                let certificate = Certificate::from_pem(&bytes)
                    .map_err(|error| wrong(format!("`{}`: {error}", path.display())))?;
                parameters = parameters.add_root_certificate(certificate);
            }
            parameters.build().map_err(|error| wrong(error.to_string()))
        };
        let (port, tls) = match (is_wrapped, self.starttls) {
            (true, _) => (465, Tls::Wrapper(tls()?)),
            (false, true) => (587, Tls::Required(tls()?)),
            (false, false) => (587, Tls::None),
        };
        let mut transport = SmtpTransport::builder_dangerous(host.trim_matches(['[', ']']))
            .port(url.port().unwrap_or(port))
            .timeout(Some(self.timeout))
            .tls(tls);
        if let Some(password) = password {
            transport = transport.credentials(Credentials::new(user, password));
        }
        Ok(transport.build())
    }
}
