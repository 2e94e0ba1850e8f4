namespace LongNet.Trainer.Storage;

/// <summary>Errors that are the disk's, its server's or its permissions', and none of the program.</summary>
internal static class DiskError
{
    /// <summary>
    /// For exception filters: whether a file operation failed in one of the ways that a user can mend.
    /// </summary>
    public static bool Is(Exception error) => error is IOException or UnauthorizedAccessException;
}
