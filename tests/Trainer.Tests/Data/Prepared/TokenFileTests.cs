using System.Buffers.Binary;
using LongNet.Core;
using LongNet.TestKit;
using LongNet.Trainer.Data;
using LongNet.Trainer.Data.Prepared;
using LongNet.Trainer.Data.Tokenization;
using LongNet.Trainer.Tests.Data.Tokenization;

namespace LongNet.Trainer.Tests.Data.Prepared;

public sealed class TokenFileTests : IDisposable
{
    private readonly TemporaryFolder folder = new();

    public void Dispose() => folder.Dispose();

    [Theory]
    [InlineData(2)]
    [InlineData(4)]
    public void Open_TokensOfAnyWidth_AreReadBack(int width)
    {
        // A token far above 16 bits makes the vocabulary a wide one.
        System.Text.Json.Nodes.JsonObject json = TinyTokenizer.Json();
        if (width == 4)
            json["model"]!["vocab"]!["or"] = 70_000;
        ITextTokenizer tokenizer = TextTokenizers.Load(TinyTokenizer.Write(folder, json));
        TokenFile file = TokenFile.Open(Make(tokenizer));
        Assert.Equal((width, 3, 12 + 6 + 12), (file.Header.TokenBytes, file.Header.Documents, file.Header.TextBytes));
        List<int> expected =
        [
            .. tokenizer.Encode("hello world\n"),
            TinyTokenizer.EndOfText,
            .. tokenizer.Encode("public"),
            TinyTokenizer.EndOfText,
            .. tokenizer.Encode("the world é"),
        ];
        var tokens = new int[file.Tokens];
        using ITokenSource source = file.OpenTokens();
        source.Read(0, tokens);
        Assert.Equal(expected, tokens);
        source.Read(2, tokens.AsSpan(0, 3));
        Assert.Equal(expected[2..5], tokens[..3]);
        Assert.Throws<ArgumentOutOfRangeException>(() => source.Read(file.Tokens - 1, new int[2]));
        Assert.Throws<ArgumentOutOfRangeException>(() => source.Read(-1, new int[2]));

        int second = expected.IndexOf(TinyTokenizer.EndOfText) + 1;
        Assert.Equal(
            [new(0, 0), new(second, 12), new(expected.LastIndexOf(TinyTokenizer.EndOfText) + 1, 18)],
            file.ReadIndex()
        );
        Assert.Equal(
            Enumerable.Range(0, tokenizer.VocabularySize).Select(token => (ushort)tokenizer.BytesOf(token).Length),
            file.BytesOfTokens!.Value.ToArray()
        );
        Assert.Equal(
            file.Header.TextBytes,
            tokens.Length == 0 ? 0 : expected.Sum(token => file.BytesOfTokens!.Value.Span[token])
        );
        file.Verify();
    }

    [Fact]
    public void Open_DamagedFile_IsNamed()
    {
        string path = Make(TextTokenizers.Load(TinyTokenizer.Write(folder)));
        byte[] intact = File.ReadAllBytes(path);
        const string WhatToDo = "Copy it again, or prepare the text again with longnet data prepare.";

        Check(
            intact[..^1],
            $"{path} is damaged: it has {intact.Length - 1} bytes, and {intact.Length} were written. {WhatToDo}"
        );
        Check(
            [.. intact, 0],
            $"{path} is damaged: it has {intact.Length + 1} bytes, and {intact.Length} were written. {WhatToDo}"
        );
        Check(intact[..100], $"{path} is damaged: it ends after 100 bytes, within its header. {WhatToDo}");
        Check(
            intact[..3],
            $"{path} is no prepared file, or its beginning is damaged: write it with longnet data prepare."
        );
        Check([], $"{path} is no prepared file, or its beginning is damaged: write it with longnet data prepare.");
        Check(
            With(0, (byte)'l'),
            $"{path} is no prepared file, or its beginning is damaged: write it with longnet data prepare."
        );
        Check(
            With(8, 2),
            $"{path} has format version 2, and this program reads 1: use a newer longnet, or prepare the text again."
        );
        // The number of tokens.
        Check(With(24, 1), $"{path} is damaged: its header is not what was written. {WhatToDo}");
        Check(With(3000, 1), $"{path} is damaged: its header is not what was written. {WhatToDo}");

        File.WriteAllBytes(path, With(TokenFileHeader.Bytes + 3, 0x7f));
        TokenFile file = TokenFile.Open(path);
        int wrong = BinaryPrimitives.ReadUInt16LittleEndian(
            With(TokenFileHeader.Bytes + 3, 0x7f).AsSpan(TokenFileHeader.Bytes + 2)
        );
        using ITokenSource source = file.OpenTokens();
        Assert.Equal(
            $"{path} is damaged: token 1 is {wrong}, and the vocabulary is {TinyTokenizer.VocabularySize}. {WhatToDo}",
            Assert.Throws<UserException>(() => source.Read(0, new int[3])).Message
        );
        Assert.Equal(
            $"{path} is damaged: its SHA-256 is not that of what was written. {WhatToDo}",
            Assert.Throws<UserException>(file.Verify).Message
        );

        byte[] With(int place, byte value)
        {
            byte[] bytes = [.. intact];
            bytes[place] = value;
            return bytes;
        }

        void Check(byte[] bytes, string message)
        {
            File.WriteAllBytes(path, bytes);
            Assert.Equal(message, Assert.Throws<UserException>(() => TokenFile.Open(path)).Message);
        }
    }

    [Fact]
    public void Open_AnyDamage_ReadsTokensOfTheVocabularyOrThrowsAUserException()
    {
        string path = Make(TextTokenizers.Load(TinyTokenizer.Write(folder)));
        byte[] intact = File.ReadAllBytes(path);
        int read = 0;
        for (int seed = 0; seed < 500; seed++)
        {
            var mutations = new Mutations(seed);
            byte[] damaged = mutations.Bytes(intact);
            // Of a header that has its digest, whatever else it says.
            if (mutations.OneOf(2) && damaged.Length >= TokenFileHeader.Bytes)
                System.Security.Cryptography.SHA256.HashData(
                    damaged.AsSpan(0, TokenFileHeader.Bytes - 32),
                    damaged.AsSpan(TokenFileHeader.Bytes - 32)
                );
            File.WriteAllBytes(path, damaged);
            try
            {
                TokenFile file = TokenFile.Open(path);
                var tokens = new int[file.Tokens];
                using ITokenSource source = file.OpenTokens();
                source.Read(0, tokens);
                Assert.All(tokens, token => Assert.InRange(token, 0, file.VocabularySize - 1));
                _ = file.ReadIndex().Count();
                read++;
            }
            catch (UserException) { }
            catch (Exception error)
            {
                Assert.Fail($"{mutations}: {error}");
            }
        }

        // Damage to the index and to lengths leaves tokens as they were.
        Assert.InRange(read, 1, 499);
    }

    [Theory]
    [InlineData(true, "has 10 bytes now, and had ")]
    [InlineData(false, "is gone, and was there when the run started: ")]
    public void Read_FileThatChangesUnderARun_IsNamedBeforeItIsRead(bool isThere, string problem)
    {
        string path = Make(TextTokenizers.Load(TinyTokenizer.Write(folder)));
        using ITokenSource source = TokenFile.Open(path).OpenTokens();
        source.Read(0, new int[2]);
        File.Delete(path);
        if (isThere)
            File.WriteAllBytes(path, new byte[10]);
        string message = Assert.Throws<UserException>(() => source.Read(0, new int[2])).Message;
        Assert.StartsWith($"{path} {problem}", message, StringComparison.Ordinal);
        Assert.EndsWith(
            "leave the file alone while a run reads it, and go on from the last checkpoint with --resume auto.",
            message,
            StringComparison.Ordinal
        );
    }

    private string Make(ITextTokenizer tokenizer)
    {
        folder.Write("text/a.txt", "hello world\n");
        folder.Write("text/b.txt", "public");
        folder.Write("text/c.txt", "the world é");
        return Preparing.Run(folder["text"], tokenizer, folder["made.tokens"]);
    }
}
