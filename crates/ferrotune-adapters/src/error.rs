use std::path::PathBuf;

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong while an adapter is configured, built, read, written or merged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A model's weights could not be read or built.
    #[error(transparent)]
    Model(#[from] ferrotune_nn::Error),
    /// libtorch refused an operation.
    #[error(transparent)]
    Tensor(#[from] tch::TchError),
    /// The layer over libtorch refused an operation.
    #[error(transparent)]
    Torch(#[from] ferrotune_torch::Error),
    /// A weight or its bytes are not what the 4-bit format takes.
    #[error(transparent)]
    Format(#[from] ferrotune_nf4::Error),
    /// A tensor cannot be quantized, or its bytes in a checkpoint are not what they should be.
    #[error("tensor `{name}` of {place} cannot be kept in 4 bits")]
    Quantized {
        /// The tensor.
        name: String,
        /// The checkpoint.
        place: String,
        /// Why.
        source: Box<Error>,
    },
    /// One of the tensors that make up a quantized weight is not what the format has there.
    #[error("its part `{part}` is {found}, expected {expected}")]
    QuantizedPart {
        /// What follows the weight's name, and the field if the part has some.
        part: String,
        /// What is there.
        found: String,
        /// What the format has there.
        expected: String,
    },
    /// A checkpoint holds a matrix in four bits that cannot bear it.
    #[error(
        "tensor `{name}` of {place} is quantized, and a {role} must not be: use a checkpoint that leaves it in 16 bits"
    )]
    QuantizedRole {
        /// The tensor.
        name: String,
        /// The checkpoint.
        place: String,
        /// What it is for.
        role: &'static str,
    },
    /// Blocks of an expert's matrix would reach from one row into the next.
    #[error(
        "tensor `{name}` of {place} has rows of {columns} weights, which blocks of {block_size} do not divide; quantize with \
         a block size that does"
    )]
    BlockAcrossRows {
        /// The tensor.
        name: String,
        /// The checkpoint.
        place: String,
        /// Weights in a row.
        columns: i64,
        /// Weights in a block.
        block_size: usize,
    },
    /// A 4-bit tensor of a checkpoint is not what the format or the model asks for.
    #[error("tensor `{name}` in {place} {problem}")]
    Stored {
        /// The tensor.
        name: String,
        /// The checkpoint.
        place: String,
        /// What is wrong, as a clause with its verb.
        problem: String,
    },
    /// A checkpoint's tensors and its configuration do not agree on whether it is quantized.
    #[error("{place} {problem} `quantization_config` in its config.json: {remedy}")]
    Announced {
        /// The checkpoint.
        place: String,
        /// What the tensors are and the configuration says.
        problem: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A field of an adapter's configuration makes no sense.
    #[error("field `{field}` of {place} is {found}, expected {expected}")]
    Config {
        /// The field, named as in `adapter_config.json`.
        field: String,
        /// The file, or what stands for it.
        place: String,
        /// Its value.
        found: String,
        /// What would be accepted.
        expected: String,
    },
    /// A field asks for something that changes the mathematics and is not implemented.
    #[error(
        "field `{field}` of {place} is {found}, which is not implemented and cannot be ignored: {remedy}"
    )]
    Unsupported {
        /// The field, named as in `adapter_config.json`.
        field: String,
        /// The file, or what stands for it.
        place: String,
        /// Its value.
        found: String,
        /// What to do.
        remedy: String,
    },
    /// A pattern is not a regular expression, or too costly to match.
    #[error("`{pattern}` in `{field}` is not a regular expression that can be matched")]
    Pattern {
        /// The field that holds it.
        field: &'static str,
        /// The pattern.
        pattern: String,
        /// Why.
        source: Box<fancy_regex::Error>,
    },
    /// Two patterns give one module different values, and which one wins depends on the order of a JSON object.
    #[error(
        "`{first}` and `{second}` in `{field}` both match `{path}` with different values; a saved file is sorted, so \
         the other one would win when it is read again: make the patterns exclude each other"
    )]
    AmbiguousPattern {
        /// The field.
        field: &'static str,
        /// The module.
        path: String,
        /// The pattern that wins now.
        first: String,
        /// The pattern that would win after saving.
        second: String,
    },
    /// Something that was asked for matches no part of the model.
    #[error("`{entry}` in `{field}` matches nothing in this model, which has {available}{remedy}")]
    NoMatch {
        /// The field.
        field: &'static str,
        /// The entry that matched nothing.
        entry: String,
        /// What could have been matched.
        available: String,
        /// What to do, if more can be said.
        remedy: String,
    },
    /// A target is not a linear map.
    #[error(
        "`{path}` was targeted with LoRA and is {what}, which LoRA is not implemented for; exclude it, or name it in \
         `modules_to_save` to train all of it"
    )]
    NotAdaptable {
        /// The module.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// The embedding of a model with a tied head was to be trained apart from the head.
    #[error(
        "`{path}` is to be trained, and the head of this model is tied to it: PEFT would train the one and leave the \
         other as it was; read the weights through `Untied` with `tie_word_embeddings` false, which does the same"
    )]
    TiedEmbedding {
        /// The embedding's module.
        path: String,
    },
    /// A folder has no adapter.
    #[error("`{folder}` has no `{missing}`; is it a PEFT adapter folder, and was it written to the end?")]
    NoAdapter {
        /// The folder.
        folder: PathBuf,
        /// The file that is not there.
        missing: &'static str,
    },
    /// A folder has only pickled weights.
    #[error(
        "`{folder}` has only `adapter_model.bin`, a pickle, which can run code when read and is not read here; convert \
         it once in Python with `PeftModel.from_pretrained(base, folder).save_pretrained(folder)`"
    )]
    Pickled {
        /// The folder.
        folder: PathBuf,
    },
    /// A tensor that the configuration asks for is not in the adapter.
    #[error(
        "tensor `{key}` is missing from {place}; the adapter was made for another model, or another configuration"
    )]
    MissingTensor {
        /// The tensor, by its name in the file.
        key: String,
        /// The adapter.
        place: String,
    },
    /// A tensor of an adapter does not fit the model.
    #[error(
        "tensor `{key}` in {place} has shape {found:?}, expected {expected:?}; the adapter was made for another model"
    )]
    WrongShape {
        /// The tensor, by its name in the file.
        key: String,
        /// The adapter.
        place: String,
        /// Its shape.
        found: Vec<i64>,
        /// What the model and the configuration ask for.
        expected: Vec<i64>,
    },
    /// An adapter has tensors that its configuration gives no place to.
    #[error(
        "{place} has {count} tensors that its configuration gives no place to in this model, among them `{first}`; the \
         adapter was made for another model, or its adapter_config.json is not its own"
    )]
    UnusedTensors {
        /// The adapter.
        place: String,
        /// How many.
        count: usize,
        /// One of them.
        first: String,
    },
    /// An adapter's bias has no bias of the base to be merged into.
    #[error(
        "`{path}` has a bias in the adapter (`lora_bias`) and none in the base, so nothing can take it when merging; \
         keep the adapter apart"
    )]
    BiasWithoutBase {
        /// The module.
        path: String,
    },
    /// What an adapter adds to experts cannot be said in another layout.
    #[error("`{path}` of {place} {problem}")]
    Layout {
        /// The stacked parameter or its module.
        path: String,
        /// The adapter.
        place: String,
        /// Why, as a clause with its verb.
        problem: String,
    },
    /// Two adapters each bring a weight of their own.
    #[error(
        "`{path}` is replaced by two of the adapters, and only one of the values can count; merge one of them"
    )]
    ReplacedTwice {
        /// The tensor.
        path: String,
    },
    /// What replaced a weight cannot be taken back.
    #[error(
        "`{path}` was replaced by the adapter when it was merged, and its old value is in no file; use the original checkpoint"
    )]
    Replaced {
        /// The tensor.
        path: String,
    },
    /// First values were to come from a weight that is quantized already.
    #[error(
        "`{path}` of {place} is quantized already, and `init_lora_weights` {init} needs the weight itself; give the \
         checkpoint that was quantized, and have it quantized while it is loaded"
    )]
    QuantizedOrigin {
        /// The module.
        path: String,
        /// The checkpoint.
        place: String,
        /// The initialization.
        init: String,
    },
    /// First values were to come from a weight that is no matrix of numbers.
    #[error(
        "tensor `{name}` of {place} is NaN or infinite at index {index}; nothing can be decomposed that is"
    )]
    NotFinite {
        /// The tensor.
        name: String,
        /// The checkpoint.
        place: String,
        /// The first such entry, counted row by row.
        index: i64,
    },
    /// A weight has not as many singular values as the rank asks for.
    #[error(
        "the rank of `{path}` is {rank}, and its weight {shape:?} has {most} singular values; `init_lora_weights` {init} \
         needs at least as many as the rank"
    )]
    RankAboveWidth {
        /// The module.
        path: String,
        /// The rank.
        rank: i64,
        /// The weight's shape.
        shape: [i64; 2],
        /// The smaller of its dimensions.
        most: i64,
        /// The initialization.
        init: String,
    },
    /// An adapter cannot have this name.
    #[error("an adapter cannot be called `{name}`, which {problem}; choose another name")]
    AdapterName {
        /// The name.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// No adapter of the model has this name.
    #[error("no adapter of this model is called `{name}`; it has {available}")]
    NoSuchAdapter {
        /// The name that was asked for.
        name: String,
        /// The names that there are.
        available: String,
    },
    /// The norms of rows that were scaled cannot be taken back.
    #[error(
        "the rows of `{path}` were scaled to the adapter's magnitudes when it was merged (DoRA), and their old norms are \
         in no file; use the original checkpoint"
    )]
    Scaled {
        /// The tensor.
        path: String,
    },
}

impl Error {
    /// The same as an error of building the site `path`.
    pub(crate) fn at(self, path: &str) -> ferrotune_nn::Error {
        match self {
            Self::Model(error) => error,
            Self::Tensor(error) => error.into(),
            Self::Torch(error) => error.into(),
            other => ferrotune_nn::Error::Site { path: path.to_owned(), source: Box::new(other) },
        }
    }
}
