//! Parses an expression into a tree and looks up every name, so that unknown names are found before a run.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::functions::{self, Function};
use super::token::{Kind, Parsed, Part, Token, tokens};
use super::value::Arithmetic;
use batchwright_items::{Record, Value};

/// Maximum nesting of an expression.
const DEPTH_MAX: usize = 64;
/// Maximum number of operators, calls and branches in one expression.
const LINKS_MAX: usize = 256;

/// An expression as a tree.
#[derive(Debug)]
pub(super) enum Node {
    Value(Value),
    /// `item.NAME`
    Field(FieldName),
    /// `item.contains("NAME")`
    HasField(Arc<str>),
    /// `params.NAME`
    Parameter(Arc<str>),
    /// `params.contains("NAME")`
    HasParameter(Arc<str>),
    /// `steps.NAME.KEY`
    Step(Arc<str>, StepKey),
    /// `context.NAME`
    Context(Arc<str>),
    /// `context.contains("NAME")`
    HasContext(Arc<str>),
    /// `steps.contains("NAME")`: whether the step has run.
    HasStep(Arc<str>),
    Not(Box<Node>),
    Negate(Box<Node>),
    Arithmetic(Arithmetic, Box<Node>, Box<Node>),
    Compare(Comparison, Box<Node>, Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    /// `??`
    OrElse(Box<Node>, Box<Node>),
    In(Box<Node>, Box<Node>),
    InRange(Box<Node>, Range),
    If(Box<Node>, Box<Node>, Box<Node>),
    Switch(Box<Node>, Vec<Case>, Box<Node>),
    Call(&'static Function, Vec<Node>),
    Index(Box<Node>, Box<Node>),
    Slice(Box<Node>, Range),
    List(Vec<Node>),
    /// A text in back quotes: texts and values, joined.
    Join(Vec<Node>),
}

/// The name of a field, and its place in the record that was asked last: the records of an input have their fields at the same
/// places.
#[derive(Debug)]
pub(super) struct FieldName {
    name: Arc<str>,
    last: AtomicUsize,
}

impl FieldName {
    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Returns the value of the field in `item`.
    pub(super) fn find<'r>(&self, item: &'r Record) -> Option<&'r Value> {
        let last = self.last.load(Ordering::Relaxed);
        if item.names().get(last).is_some_and(|name| *name == self.name) {
            return item.values().get(last);
        }
        let found = item.names().iter().position(|name| *name == self.name)?;
        self.last.store(found, Ordering::Relaxed);
        item.values().get(found)
    }
}

impl From<Arc<str>> for FieldName {
    fn from(name: Arc<str>) -> Self {
        Self { name, last: AtomicUsize::new(0) }
    }
}

impl std::fmt::Display for FieldName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A range from one number to another, with or without its end.
#[derive(Debug)]
pub(super) struct Range {
    pub(super) from: Box<Node>,
    pub(super) to: Box<Node>,
    pub(super) inclusive: bool,
}

#[derive(Debug)]
pub(super) struct Case {
    pub(super) patterns: Vec<Pattern>,
    pub(super) guard: Option<Node>,
    pub(super) result: Node,
}

#[derive(Debug)]
pub(super) enum Pattern {
    Value(Node),
    Range(Range),
}

/// The properties of a step that a decision can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StepKey {
    Status,
    Exit,
    Read,
    Write,
    Filter,
    ReadSkip,
    ProcessSkip,
    WriteSkip,
    Skips,
    Commit,
    Rollback,
}

const STEP_KEYS: [(&str, StepKey); 11] = [
    ("status", StepKey::Status),
    ("exit", StepKey::Exit),
    ("read", StepKey::Read),
    ("write", StepKey::Write),
    ("filter", StepKey::Filter),
    ("read_skip", StepKey::ReadSkip),
    ("process_skip", StepKey::ProcessSkip),
    ("write_skip", StepKey::WriteSkip),
    ("skips", StepKey::Skips),
    ("commit", StepKey::Commit),
    ("rollback", StepKey::Rollback),
];

/// The names that an expression can read values from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Roots {
    /// `item` and `params`: of a processor.
    Item,
    /// `params`, `steps` and `context`: of a decision.
    Decision,
}

/// Parses `text`, which must be one expression.
pub(super) fn parse(text: &str, roots: Roots) -> Parsed<Node> {
    parse_part(text, 0, roots, Bounds::default())
}

/// The size of the expression so far. The tree is walked by recursion, so its height is bounded.
#[derive(Debug, Clone, Copy, Default)]
struct Bounds {
    depth: usize,
    links: usize,
}

fn parse_part(text: &str, offset: usize, roots: Roots, bounds: Bounds) -> Parsed<Node> {
    let mut parser = Parser { tokens: tokens(text, offset)?, at: 0, roots, bounds };
    let node = parser.expression(0)?;
    match parser.peek() {
        Kind::End => Ok(node),
        _ => parser.unexpected("the end"),
    }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    roots: Roots,
    bounds: Bounds,
}

/// Returns the precedence of a binary operator; only `**` groups from the right.
fn precedence(sign: &str) -> Option<u8> {
    Some(match sign {
        "||" => 1,
        "&&" => 2,
        "==" | "!=" => 3,
        "in" | "!in" => 4,
        "<" | "<=" | ">" | ">=" => 5,
        "??" => 6,
        "+" | "-" => 7,
        "*" | "/" | "%" => 8,
        "**" => 9,
        _ => return None,
    })
}

impl Parser {
    fn peek(&self) -> &Kind {
        &self.tokens[self.at].kind
    }

    fn advance(&mut self) -> Token {
        let token = self.tokens[self.at].clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    fn is(&self, sign: &str) -> bool {
        match self.peek() {
            Kind::Sign(found) => *found == sign,
            Kind::Name(name) => name == sign,
            _ => false,
        }
    }

    fn take(&mut self, sign: &str) -> bool {
        let found = self.is(sign);
        if found {
            self.advance();
        }
        found
    }

    fn expect(&mut self, sign: &str) -> Parsed<()> {
        match self.take(sign) {
            true => Ok(()),
            false => self.unexpected(&format!("`{sign}`")),
        }
    }

    fn unexpected<T>(&self, required: &str) -> Parsed<T> {
        let found = match self.peek() {
            Kind::End => "the end".to_owned(),
            Kind::Name(name) => format!("`{name}`"),
            Kind::Sign(sign) => format!("`{sign}`"),
            Kind::Literal(_) | Kind::Template(_) => "a value".to_owned(),
        };
        let at = self.tokens[self.at].at + 1;
        Err(format!("expected {required} at character {at}, found {found}"))
    }

    fn expression(&mut self, least: u8) -> Parsed<Node> {
        self.bounds.depth += 1;
        if self.bounds.depth > DEPTH_MAX {
            return Err(format!("it is nested deeper than {DEPTH_MAX} levels"));
        }
        let mut left = self.prefix()?;
        while let Some((sign, binds)) = self.operator().filter(|(_, binds)| *binds >= least) {
            self.link()?;
            self.advance();
            if sign == "!in" {
                self.advance();
            }
            let from_right = sign == "**";
            left = self.binary(sign, left, if from_right { binds } else { binds + 1 })?;
        }
        self.bounds.depth -= 1;
        Ok(left)
    }

    /// Counts an operator, call or branch, which makes the tree higher without a bracket.
    fn link(&mut self) -> Parsed<()> {
        self.bounds.links += 1;
        match self.bounds.links > LINKS_MAX {
            true => Err(format!("it has more than {LINKS_MAX} operators, calls and branches")),
            false => Ok(()),
        }
    }

    fn operator(&self) -> Option<(&'static str, u8)> {
        let sign = match self.peek() {
            Kind::Sign("!") => match self.tokens.get(self.at + 1).map(|next| &next.kind) {
                Some(Kind::Name(name)) if name == "in" => "!in",
                _ => return None,
            },
            Kind::Sign(sign) => sign,
            Kind::Name(name) if name == "in" => "in",
            _ => return None,
        };
        Some((sign, precedence(sign)?))
    }

    fn binary(&mut self, sign: &str, left: Node, binds: u8) -> Parsed<Node> {
        if let ("in" | "!in", Some(is_in)) = (sign, self.name_in_root(&left)) {
            return Ok(if sign == "in" { is_in } else { Node::Not(Box::new(is_in)) });
        }
        let left = Box::new(left);
        let right = Box::new(self.expression(binds)?);
        Ok(match sign {
            "||" => Node::Or(left, right),
            "&&" => Node::And(left, right),
            "??" => Node::OrElse(left, right),
            "==" => Node::Compare(Comparison::Equal, left, right),
            "!=" => Node::Compare(Comparison::Unequal, left, right),
            "<" => Node::Compare(Comparison::Less, left, right),
            "<=" => Node::Compare(Comparison::LessOrEqual, left, right),
            ">" => Node::Compare(Comparison::Greater, left, right),
            ">=" => Node::Compare(Comparison::GreaterOrEqual, left, right),
            "+" => Node::Arithmetic(Arithmetic::Add, left, right),
            "-" => Node::Arithmetic(Arithmetic::Subtract, left, right),
            "*" => Node::Arithmetic(Arithmetic::Multiply, left, right),
            "/" => Node::Arithmetic(Arithmetic::Divide, left, right),
            "%" => Node::Arithmetic(Arithmetic::Remainder, left, right),
            "**" => Node::Arithmetic(Arithmetic::Power, left, right),
            "in" | "!in" => {
                let is_in = match self.range_after(right)? {
                    Ok(range) => Node::InRange(left, range),
                    Err(list) => Node::In(left, list),
                };
                if sign == "in" { is_in } else { Node::Not(Box::new(is_in)) }
            }
            _ => unreachable!("`precedence` knows no other sign"),
        })
    }

    /// Parses the rest of `"NAME" in item` and the like, which means `item.contains("NAME")`.
    fn name_in_root(&mut self, name: &Node) -> Option<Node> {
        let (Node::Value(Value::Text(name)), Kind::Name(root)) = (name, self.peek()) else {
            return None;
        };
        let has = match (root.as_str(), self.roots) {
            ("item", Roots::Item) => Node::HasField,
            ("params", _) => Node::HasParameter,
            ("context", Roots::Decision) => Node::HasContext,
            ("steps", Roots::Decision) => Node::HasStep,
            _ => return None,
        };
        let next = self.tokens.get(self.at + 1).map(|next| &next.kind);
        if matches!(next, Some(Kind::Sign("." | "["))) {
            return None;
        }
        let node = has(Arc::from(name.as_ref()));
        self.advance();
        Some(node)
    }

    /// Parses the rest of `from..to` or `from..=to`, if a range follows.
    fn range_after(&mut self, from: Box<Node>) -> Parsed<Result<Range, Box<Node>>> {
        let inclusive = self.is("..=");
        if !inclusive && !self.is("..") {
            return Ok(Err(from));
        }
        self.advance();
        let to = Box::new(self.expression(7)?);
        Ok(Ok(Range { from, to, inclusive }))
    }

    fn prefix(&mut self) -> Parsed<Node> {
        if self.take("!") {
            return Ok(Node::Not(Box::new(self.expression(10)?)));
        }
        if self.take("-") {
            return Ok(Node::Negate(Box::new(self.expression(10)?)));
        }
        let mut node = self.primary()?;
        loop {
            if self.take(".") {
                self.link()?;
                node = self.member(node)?;
            } else if self.take("[") {
                self.link()?;
                let index = Box::new(self.expression(0)?);
                node = match self.range_after(index)? {
                    Ok(range) => Node::Slice(Box::new(node), range),
                    Err(index) => Node::Index(Box::new(node), index),
                };
                self.expect("]")?;
            } else {
                return Ok(node);
            }
        }
    }

    /// Parses `.name(…)` after a value; the brackets may be left out, as in `.len`.
    fn member(&mut self, value: Node) -> Parsed<Node> {
        let name = self.name("the name of a function")?;
        let mut arguments = vec![value];
        if self.take("(") {
            self.arguments(&mut arguments, ")")?;
        }
        call(&name, arguments)
    }

    fn name(&mut self, required: &str) -> Parsed<String> {
        match self.peek() {
            Kind::Name(_) => {}
            _ => return self.unexpected(required),
        }
        match self.advance().kind {
            Kind::Name(name) => Ok(name),
            _ => unreachable!("the caller peeked at the token"),
        }
    }

    fn arguments(&mut self, arguments: &mut Vec<Node>, end: &str) -> Parsed<()> {
        while !self.take(end) {
            arguments.push(self.expression(0)?);
            if !self.is(end) {
                self.expect(",")?;
            }
        }
        Ok(())
    }

    fn primary(&mut self) -> Parsed<Node> {
        match self.peek().clone() {
            Kind::Literal(value) => {
                self.advance();
                Ok(Node::Value(value))
            }
            Kind::Template(parts) => {
                self.advance();
                self.template(parts)
            }
            Kind::Sign("(") => {
                self.advance();
                if self.take(")") {
                    return Ok(Node::Value(Value::Null));
                }
                let node = self.expression(0)?;
                self.expect(")")?;
                Ok(node)
            }
            Kind::Sign("[") => {
                self.advance();
                let mut items = Vec::new();
                self.arguments(&mut items, "]")?;
                Ok(Node::List(items))
            }
            Kind::Name(name) => {
                let at = self.advance().at + 1;
                self.named(&name, at)
            }
            _ => self.unexpected("a value"),
        }
    }

    fn template(&mut self, parts: Vec<Part>) -> Parsed<Node> {
        let nodes: Parsed<Vec<Node>> = parts
            .into_iter()
            .filter(|part| !matches!(part, Part::Text(text) if text.is_empty()))
            .map(|part| match part {
                Part::Text(text) => Ok(Node::Value(Value::Text(text.into()))),
                Part::Expression { text, at } => parse_part(&text, at, self.roots, self.bounds),
            })
            .collect();
        nodes.map(Node::Join)
    }

    fn named(&mut self, name: &str, at: usize) -> Parsed<Node> {
        match (name, self.roots) {
            ("true", _) => Ok(Node::Value(Value::Boolean(true))),
            ("false", _) => Ok(Node::Value(Value::Boolean(false))),
            ("null", _) => Ok(Node::Value(Value::Null)),
            ("if", _) => self.conditional(),
            ("switch", _) => self.switch(),
            ("item", Roots::Item) => {
                self.root(name, |name| Node::Field(name.into()), Node::HasField)
            }
            ("params", _) => self.root(name, Node::Parameter, Node::HasParameter),
            ("context", Roots::Decision) => self.root(name, Node::Context, Node::HasContext),
            ("steps", Roots::Decision) => self.step(),
            _ if self.take("(") => {
                let mut arguments = Vec::new();
                self.arguments(&mut arguments, ")")?;
                call(name, arguments)
            }
            (_, roots) => {
                let known = match roots {
                    Roots::Item => "`item` and `params`",
                    Roots::Decision => "`params`, `steps` and `context`",
                };
                Err(format!("there is no `{name}` at character {at}; there are {known}"))
            }
        }
    }

    /// Parses the rest of `root.NAME`, `root["NAME"]` or `root.contains("NAME")`.
    fn root(
        &mut self,
        root: &str,
        value: fn(Arc<str>) -> Node,
        contains: fn(Arc<str>) -> Node,
    ) -> Parsed<Node> {
        if self.take("[") {
            let name = self.literal_text()?;
            self.expect("]")?;
            return Ok(value(name.into()));
        }
        if !self.is(".") {
            return self.unexpected(&format!("`.` and a name after `{root}`"));
        }
        self.advance();
        let name = self.name("a name")?;
        if name == "contains" && self.take("(") {
            let name = self.literal_text()?;
            self.expect(")")?;
            return Ok(contains(name.into()));
        }
        Ok(value(name.into()))
    }

    fn literal_text(&mut self) -> Parsed<String> {
        match self.peek().clone() {
            Kind::Literal(Value::Text(text)) => {
                self.advance();
                Ok(text.to_string())
            }
            _ => self.unexpected("a name in quotes"),
        }
    }

    fn step(&mut self) -> Parsed<Node> {
        let name = match self.take("[") {
            true => {
                let name = self.literal_text()?;
                self.expect("]")?;
                name
            }
            false => {
                self.expect(".")?;
                let name = self.name("the name of a step")?;
                if name == "contains" && self.take("(") {
                    let name = self.literal_text()?;
                    self.expect(")")?;
                    return Ok(Node::HasStep(name.into()));
                }
                name
            }
        };
        self.expect(".")?;
        let key = self.name("a property of the step")?;
        match STEP_KEYS.iter().find(|(known, _)| *known == key) {
            Some((_, key)) => Ok(Node::Step(name.into(), *key)),
            None => {
                let known: Vec<_> = STEP_KEYS.iter().map(|(known, _)| *known).collect();
                Err(format!("a step has no `{key}`; it has {}", known.join(", ")))
            }
        }
    }

    fn block(&mut self) -> Parsed<Node> {
        self.expect("{")?;
        let node = self.expression(0)?;
        self.expect("}")?;
        Ok(node)
    }

    fn conditional(&mut self) -> Parsed<Node> {
        self.link()?;
        let condition = Box::new(self.expression(0)?);
        let yes = Box::new(self.block()?);
        let no = match self.take("else") {
            false => Node::Value(Value::Null),
            true if self.take("if") => self.conditional()?,
            true => self.block()?,
        };
        Ok(Node::If(condition, yes, Box::new(no)))
    }

    fn switch(&mut self) -> Parsed<Node> {
        let subject = Box::new(self.expression(0)?);
        self.expect("{")?;
        let (mut cases, mut otherwise) = (Vec::new(), Node::Value(Value::Null));
        while !self.take("}") {
            if self.take("_") {
                self.expect("=>")?;
                otherwise = self.expression(0)?;
                self.take(",");
                self.expect("}")?;
                break;
            }
            let mut patterns = vec![self.pattern()?];
            while self.take("|") {
                patterns.push(self.pattern()?);
            }
            let guard = if self.take("if") { Some(self.expression(0)?) } else { None };
            self.expect("=>")?;
            let result = if self.is("{") { self.block()? } else { self.expression(0)? };
            cases.push(Case { patterns, guard, result });
            if !self.is("}") {
                self.expect(",")?;
            }
        }
        Ok(Node::Switch(subject, cases, Box::new(otherwise)))
    }

    fn pattern(&mut self) -> Parsed<Pattern> {
        let value = Box::new(self.expression(7)?);
        Ok(match self.range_after(value)? {
            Ok(range) => Pattern::Range(range),
            Err(value) => Pattern::Value(*value),
        })
    }
}

fn call(name: &str, arguments: Vec<Node>) -> Parsed<Node> {
    let Some(function) = functions::find(name) else {
        let like = functions::like(name);
        let like = like.map_or_else(String::new, |like| format!("; did you mean `{like}`?"));
        return Err(format!("there is no function `{name}`{like}"));
    };
    let (least, most) = function.arguments;
    let count = arguments.len();
    match (least..=most).contains(&count) {
        true => Ok(Node::Call(function, arguments)),
        false => {
            let required =
                if least == most { least.to_string() } else { format!("{least} to {most}") };
            Err(format!(
                "`{name}` takes {required} arguments, the value before the dot included; it has {count}"
            ))
        }
    }
}

impl Node {
    /// Calls `visit` with this node and every node below it.
    pub(super) fn visit<'n>(&'n self, visit: &mut dyn FnMut(&'n Node)) {
        visit(self);
        let mut each = |nodes: &[&'n Node]| nodes.iter().for_each(|node| node.visit(visit));
        match self {
            Self::Value(_)
            | Self::Field(_)
            | Self::HasField(_)
            | Self::Parameter(_)
            | Self::HasParameter(_)
            | Self::Step(..)
            | Self::Context(_)
            | Self::HasContext(_)
            | Self::HasStep(_) => {}
            Self::Not(one) | Self::Negate(one) => each(&[one]),
            Self::Arithmetic(_, one, two)
            | Self::Compare(_, one, two)
            | Self::And(one, two)
            | Self::Or(one, two)
            | Self::OrElse(one, two)
            | Self::In(one, two)
            | Self::Index(one, two) => each(&[one, two]),
            Self::InRange(one, range) | Self::Slice(one, range) => {
                each(&[one, &range.from, &range.to]);
            }
            Self::If(one, two, three) => each(&[one, two, three]),
            Self::Switch(subject, cases, otherwise) => {
                each(&[subject, otherwise]);
                for case in cases {
                    each(&[&case.result]);
                    case.guard.iter().for_each(|guard| each(&[guard]));
                    for pattern in &case.patterns {
                        match pattern {
                            Pattern::Value(value) => each(&[value]),
                            Pattern::Range(range) => each(&[&range.from, &range.to]),
                        }
                    }
                }
            }
            Self::Call(_, nodes) | Self::List(nodes) | Self::Join(nodes) => {
                nodes.iter().for_each(|node| each(&[node]));
            }
        }
    }
}
