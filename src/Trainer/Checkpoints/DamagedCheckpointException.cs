using LongNet.Core;

namespace LongNet.Trainer.Checkpoints;

/// <summary>A checkpoint that is not what was written: an older one may be complete.</summary>
internal sealed class DamagedCheckpointException : UserException
{
    /// <param name="checkpoint">Its folder.</param>
    /// <param name="file">The file at fault.</param>
    /// <param name="problem">What is wrong with the file, e.g. "it is missing".</param>
    public DamagedCheckpointException(string checkpoint, string file, string problem)
        : base(
            $"The checkpoint {checkpoint} is damaged: {file}: {problem}. Resume from another one: --resume "
                + "auto takes the newest that is whole."
        )
    {
        File = file;
        Problem = problem;
    }

    /// <summary>The file at fault.</summary>
    public string File { get; }

    /// <summary>What is wrong with it.</summary>
    public string Problem { get; }
}
