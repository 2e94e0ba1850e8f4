using LongNet.Core;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Data.Prepared;
using LongNet.Trainer.Data.Tokenization;

namespace LongNet.Trainer.Data;

/// <summary>Opens what data.path names: text, or one prepared file.</summary>
internal static class TokenCorpora
{
    /// <exception cref="UserException">A file is missing or damaged, the tokenizer is not the one that the text was
    /// prepared with, or the model's vocabulary is too small for it.</exception>
    public static ITokenCorpus Open(RunConfig config)
    {
        DataConfig data = config.Data;
        string[] prepared = [.. data.Path.Where(IsPrepared)];
        if (prepared.Length > 0 && data.Path.Count > 1)
            throw new UserException(
                $"data.path names {prepared[0]}, which is prepared, and {data.Path.Count - 1} more: name "
                    + "one prepared file alone, made of all the text."
            );
        if (prepared.Length == 0)
        {
            return data.Tokenizer == TokenizerName.Byte
                ? Corpus.Open(data)
                : throw new UserException(
                    $"data.tokenizer is {data.Tokenizer}, and data.path names text, which is tokenized "
                        + $"before training: run {PrepareCommand(config)}, then set data.path to the file that it "
                        + "writes."
                );
        }

        TokenFile file = TokenFile.Open(prepared[0]);
        if (
            data.Tokenizer != TokenizerName.Byte
            && TextTokenizers.Load(data.Tokenizer).Fingerprint != file.Header.TokenizerFingerprint
        )
        {
            throw new UserException(
                $"data.path {prepared[0]} was prepared with {file.Tokenizer}, which is not the tokenizer that "
                    + $"data.tokenizer {data.Tokenizer} names: "
                    + "remove data.tokenizer to train on it as it is, or prepare the text again."
            );
        }

        return config.Model.Vocabulary >= file.VocabularySize
            ? file
            : throw new UserException(
                $"model.vocabulary is {config.Model.Vocabulary}, but data.path {prepared[0]} was prepared "
                    + $"with {file.Tokenizer}, whose vocabulary is {file.VocabularySize}: "
                    + $"set model.vocabulary: {file.VocabularySize}, or more."
            );
    }

    // A file is recognized by its contents. One that only has the extension is damaged, and must not be read as text.
    private static bool IsPrepared(string path) =>
        File.Exists(path)
        && (path.EndsWith(TokenFile.Extension, StringComparison.OrdinalIgnoreCase) || TokenFile.HasMagic(path));

    private static string PrepareCommand(RunConfig config)
    {
        string exclude = config.Data.Exclude.SequenceEqual(new DataConfig { Path = [] }.Exclude)
            ? ""
            : $" --exclude {string.Join(' ', config.Data.Exclude.Select(Quoted))}";
        return $"longnet data prepare --input {string.Join(' ', config.Data.Path.Select(Quoted))}{exclude} "
            + $"--tokenizer {Quoted(config.Data.Tokenizer)} --output {Quoted($"{config.Name}{TokenFile.Extension}")}";
    }

    // In quotes where a shell would otherwise split or expand it.
    private static string Quoted(string word) =>
        word.All(character =>
            char.IsAsciiLetterOrDigit(character) || "/._-+,:@%".Contains(character, StringComparison.Ordinal)
        )
        && word.Length > 0
            ? word
            : $"'{word.Replace("'", "'\\''", StringComparison.Ordinal)}'";
}
