namespace LongNet.Core;

/// <summary>
/// A mistake the user can mend: a wrong key, path, shape, mesh or file. The message is one clear sentence that names
/// what is wrong and says what to do; the command line prints it without a stack trace and exits with code 2.
/// </summary>
public class UserException : Exception
{
    public UserException(string message)
        : base(message) { }

    public UserException(string message, Exception innerException)
        : base(message, innerException) { }
}
